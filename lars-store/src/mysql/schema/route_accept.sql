-- What somebody has looked at and found right: a table of routes with so many hosts.
CREATE TABLE IF NOT EXISTS LarsRouteAccept (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    version BIGINT UNSIGNED NOT NULL,
    hosts BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB

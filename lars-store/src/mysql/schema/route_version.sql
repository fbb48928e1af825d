-- One row, with id 1: the version of all routes.
CREATE TABLE IF NOT EXISTS RouteVersion (
    id INT UNSIGNED NOT NULL PRIMARY KEY,
    version BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB

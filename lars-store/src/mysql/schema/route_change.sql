-- Which modules changed with which version.
CREATE TABLE IF NOT EXISTS RouteChange (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    modid INT UNSIGNED NOT NULL,
    cmdid INT UNSIGNED NOT NULL,
    version BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB

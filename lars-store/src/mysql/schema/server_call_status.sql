-- How the calls of a caller to a host of a module went, in the window that was last reported.
CREATE TABLE IF NOT EXISTS ServerCallStatus (
    modid INT UNSIGNED NOT NULL,
    cmdid INT UNSIGNED NOT NULL,
    ip INT UNSIGNED NOT NULL,
    port INT UNSIGNED NOT NULL,
    caller INT UNSIGNED NOT NULL,
    succ_cnt INT UNSIGNED NOT NULL,
    err_cnt INT UNSIGNED NOT NULL,
    ts BIGINT NOT NULL,
    overload CHAR(1) NOT NULL,
    PRIMARY KEY (modid, cmdid, ip, port, caller)
) ENGINE = InnoDB

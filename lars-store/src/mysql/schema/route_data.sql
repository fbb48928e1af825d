-- Which hosts serve which module. Addresses are IPv4 in host order; a negative id is its two's complement.
-- The index covers every read. It is not unique: old editors repeat rows.
CREATE TABLE IF NOT EXISTS RouteData (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    modid INT UNSIGNED NOT NULL,
    cmdid INT UNSIGNED NOT NULL,
    serverip INT UNSIGNED NOT NULL,
    serverport INT UNSIGNED NOT NULL,
    INDEX RouteDataByModule (modid, cmdid, serverip, serverport)
) ENGINE = InnoDB

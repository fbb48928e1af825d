-- The tables of the C++ deployments, on SQLite. Numbers are those of INT UNSIGNED columns.

CREATE TABLE IF NOT EXISTS RouteData (
    id INTEGER PRIMARY KEY,
    modid INTEGER NOT NULL,
    cmdid INTEGER NOT NULL,
    serverip INTEGER NOT NULL,
    serverport INTEGER NOT NULL
);

-- Covers every read of RouteData. Not unique: imported tables repeat rows.
CREATE INDEX IF NOT EXISTS RouteDataByModule ON RouteData (modid, cmdid, serverip, serverport);

CREATE TABLE IF NOT EXISTS RouteVersion (
    id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL
);

INSERT OR IGNORE INTO RouteVersion (id, version) VALUES (1, 0);

-- AUTOINCREMENT: an id never comes again, also when the newest rows were pruned.
CREATE TABLE IF NOT EXISTS RouteChange (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    modid INTEGER NOT NULL,
    cmdid INTEGER NOT NULL,
    version INTEGER NOT NULL
);

-- What somebody has looked at and found right: a table of routes with so many hosts.
CREATE TABLE IF NOT EXISTS LarsRouteAccept (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL,
    hosts INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS ServerCallStatus (
    modid INTEGER NOT NULL,
    cmdid INTEGER NOT NULL,
    ip INTEGER NOT NULL,
    port INTEGER NOT NULL,
    caller INTEGER NOT NULL,
    succ_cnt INTEGER NOT NULL,
    err_cnt INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    overload TEXT NOT NULL,
    PRIMARY KEY (modid, cmdid, ip, port, caller)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS ModIDConfig (
    id INTEGER PRIMARY KEY,
    modid INTEGER NOT NULL,
    content TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS CmdIDConfig (
    id INTEGER PRIMARY KEY,
    cmdid INTEGER NOT NULL,
    content TEXT NOT NULL
);

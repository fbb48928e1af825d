-- The tables as deployments of the C++ system have them, with what its tools leave in them over the years:
-- repeated rows, ports that are none, changes whose version was seen already, no row in RouteVersion.

CREATE TABLE `RouteData` (
    `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
    `modid` int(10) unsigned NOT NULL,
    `cmdid` int(10) unsigned NOT NULL,
    `serverip` int(10) unsigned NOT NULL,
    `serverport` int(10) unsigned NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=116064 DEFAULT CHARSET=utf8;

CREATE TABLE `RouteVersion` (
    `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
    `version` int(10) unsigned NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8;

CREATE TABLE `RouteChange` (
    `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
    `modid` int(10) unsigned NOT NULL,
    `cmdid` int(10) unsigned NOT NULL,
    `version` bigint(20) unsigned NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=17 DEFAULT CHARSET=utf8;

CREATE TABLE `ServerCallStatus` (
    `modid` int(10) unsigned NOT NULL,
    `cmdid` int(10) unsigned NOT NULL,
    `ip` int(10) unsigned NOT NULL,
    `port` int(10) unsigned NOT NULL,
    `caller` int(10) unsigned NOT NULL,
    `succ_cnt` int(10) unsigned NOT NULL,
    `err_cnt` int(10) unsigned NOT NULL,
    `ts` bigint(20) NOT NULL,
    `overload` char(1) NOT NULL,
    PRIMARY KEY (`modid`,`cmdid`,`ip`,`port`,`caller`),
    KEY `mlb_index` (`modid`,`cmdid`,`ip`,`port`,`caller`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8;

CREATE TABLE `ModIDConfig` (
    `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
    `modid` int(10) unsigned NOT NULL,
    `content` varchar(128) NOT NULL DEFAULT '',
    PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8;

CREATE TABLE `CmdIDConfig` (
    `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
    `cmdid` int(10) unsigned NOT NULL,
    `content` varchar(128) NOT NULL DEFAULT '',
    PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8;

INSERT INTO RouteData (modid, cmdid, serverip, serverport) VALUES
    (1, 1, 2130706433, 7777),
    (1, 2, 3232235953, 9999),
    (1, 2, 3232235953, 9999),
    (1, 2, 3232235954, 70000),
    (1, 2, 3232235955, 0);

INSERT INTO RouteChange (modid, cmdid, version) VALUES (1, 1, 1573034611), (1, 2, 1573034611);

INSERT INTO ServerCallStatus (modid, cmdid, ip, port, caller, succ_cnt, err_cnt, ts, overload) VALUES
    (1, 1, 2130706433, 7777, 2130706433, 90, 10, 1573034611, '0'),
    (1, 2, 3232235953, 9999, 2130706433, 5, 95, 1573034612, '1');

INSERT INTO ModIDConfig (modid, content) VALUES (1, 'payments');
INSERT INTO CmdIDConfig (cmdid, content) VALUES (1, 'authorise'), (2, 'capture');

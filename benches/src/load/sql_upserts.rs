//! Call statistics written to SQL one by one, a transaction for each row: what lars-reporter is compared with.

use std::{
    net::Ipv4Addr,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use lars_proto::{HostAddr, ModuleId};
use lars_store::{CallStatus, CallStatusKey, OpenMode, StoreUrl};

use super::{
    Load, LoadError,
    measurement::{Measurement, Stored},
    run::{Plan, Run},
};

/// Rows that are written again and again.
const KEYS: u32 = 10_000;

/// Callers that nothing else uses.
const FIRST_CALLER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 0);

/// Where rows go.
#[derive(Clone, Debug, Args)]
pub struct SqlUpserts {
    /// The database: sqlite:PATH or mysql://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "LARS_STORE_URL", hide_env_values = true)]
    pub store: StoreUrl,
}

impl Load for SqlUpserts {
    fn run(&self, plan: &Plan) -> Result<Measurement, LoadError> {
        let mut store = lars_store::open(&self.store, OpenMode::Create)?;
        let mut run = Run::start(plan);
        while run.begin(1) {
            let since = run.now;
            store.upsert(&[row(run.counts.requests)])?;
            run.tick();
            run.finish(since, 1);
        }
        let measurement = run.end(0);
        let stored = Stored { rows: measurement.completed, per_second: measurement.per_second };
        Ok(Measurement { stored: Some(stored), ..measurement })
    }
}

fn row(number: u64) -> CallStatus {
    let ts = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let caller = Ipv4Addr::from_bits(FIRST_CALLER.to_bits() + number as u32 % KEYS);
    let host = HostAddr::v4(Ipv4Addr::LOCALHOST, 80);
    let key = CallStatusKey { module: ModuleId::new(1, 2), host, caller };
    CallStatus { key, succ: number as u32, err: 0, ts, overload: false }
}

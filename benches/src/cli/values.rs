//! What flags may be given.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use lars_proto::ModuleId;

use crate::load::{in_flight::SLOTS_MAX, tcp_echo::BODY_LEN_MIN};

/// Modules whose ids follow each other.
#[derive(Clone, Debug)]
pub(super) struct ModuleRange {
    modids: RangeInclusive<i32>,
    cmdid: i32,
}

impl ModuleRange {
    pub(super) fn modules(&self) -> impl Iterator<Item = ModuleId> {
        let cmdid = self.cmdid;
        self.modids.clone().map(move |modid| ModuleId::new(modid, cmdid))
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|time| if time.is_zero() { Err("is 0".into()) } else { Ok(time) })
}

pub(super) fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is not a number")?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("is not above 0".into()) }
}

pub(super) fn modules(text: &str) -> Result<ModuleRange, String> {
    let range = || {
        let (modids, cmdid) = text.split_once('/')?;
        let (first, last) = modids.split_once("..").unwrap_or((modids, modids));
        Some(ModuleRange { modids: first.parse().ok()?..=last.parse().ok()?, cmdid: cmdid.parse().ok()? })
    };
    range().filter(|range| !range.modids.is_empty()).ok_or_else(|| "is not like 1/1 or 1..9/1".into())
}

/// One module.
pub(super) fn module(text: &str) -> Result<ModuleId, String> {
    let range = modules(text)?;
    if range.modids.start() == range.modids.end() {
        Ok(ModuleId::new(*range.modids.start(), range.cmdid))
    } else {
        Err("is more than one module".into())
    }
}

pub(super) fn at_least<const MIN: usize>(text: &str) -> Result<usize, String> {
    in_range(text, MIN, usize::MAX)
}

pub(super) fn slots(text: &str) -> Result<usize, String> {
    in_range(text, 1, SLOTS_MAX)
}

pub(super) fn body_len(text: &str) -> Result<usize, String> {
    in_range(text, BODY_LEN_MIN, lars_proto::frame::BODY_LEN_MAX)
}

pub(super) fn in_range(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let number = usize::from_str(text).map_err(|error| error.to_string())?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(format!("is not in {min}..={max}")) }
}

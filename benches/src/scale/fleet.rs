//! Modules and hosts to measure with, and databases of them.

use std::net::Ipv4Addr;

use lars_proto::{HostAddr, ModuleId};
use lars_store::{OpenMode, RouteEdit, Store, StoreUrl};
use tempfile::TempDir;

use super::ScaleError;

/// Modules that share a `modid`.
const CMDIDS: usize = 100;

/// Modules of one edit.
const EDITED_AT_ONCE: usize = 10_000;

/// The module number `n`, in the order of SQL.
pub fn module(n: usize) -> ModuleId {
    let id = |n: usize| i32::try_from(n).expect("no fleet has 2³¹ modules");
    ModuleId::new(id(1 + n / CMDIDS), id(1 + n % CMDIDS))
}

/// The host number `n`, as machines of a data centre have them: from 10.0.0.1 up.
pub fn host(n: usize) -> HostAddr {
    let offset = u32::try_from(n & 0x00ff_ffff).expect("24 bits");
    HostAddr::v4(Ipv4Addr::from_bits(0x0a00_0001 + offset), 8_080)
}

/// So many hosts.
pub fn hosts(count: usize) -> Vec<HostAddr> {
    (0..count).map(host).collect()
}

/// A database of routes in SQLite, gone when it is dropped.
pub struct Site {
    _folder: TempDir,
    url: String,
    editor: Box<dyn Store>,
    /// Modules that have routes.
    modules: usize,
}

impl Site {
    /// One without routes.
    pub fn new() -> Result<Self, ScaleError> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("lars.db");
        let url = format!("sqlite:{}", path.display());
        let editor = lars_store::open(&StoreUrl::Sqlite(path), OpenMode::Create)?;
        Ok(Self { _folder: folder, url, editor, modules: 0 })
    }

    /// Adds modules with so many hosts each until there are so many.
    pub fn grow(&mut self, modules: usize, hosts_per_module: usize) -> Result<(), ScaleError> {
        let hosts = hosts(hosts_per_module);
        while self.modules < modules {
            let end = modules.min(self.modules + EDITED_AT_ONCE);
            let edits = (self.modules..end).map(|n| RouteEdit::Replace(module(n), hosts.clone()));
            self.editor.edit(&edits.collect::<Vec<_>>())?;
            self.modules = end;
        }
        Ok(())
    }

    /// Where it is, for a command line.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it is.
    ///
    /// # Panics
    /// Never: it was opened.
    pub fn store_url(&self) -> StoreUrl {
        self.url.parse().expect("it was opened")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_distinct_and_ordered() {
        let modules: Vec<_> = (0..3_000).map(module).collect();
        assert!(modules.windows(2).all(|pair| pair[0] < pair[1]) && modules[0] == ModuleId::new(1, 1));
    }
}

//! The bijection between names and virtual addresses. Append-only, so that nothing ever moves.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, RwLock};

use ipnet::IpNet;
use tokio::sync::watch;

/// Names that may have an address, however large the ranges.
pub const NAMES_MAX: usize = 60_000;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    #[error("the file of virtual addresses: {0}")]
    File(#[from] io::Error),
    #[error("the file of virtual addresses names {0:?} twice")]
    Twice(String),
    #[error("every virtual address is taken")]
    Full,
    #[error("virtual_v4 must be an IPv4 range and virtual_v6 an IPv6 range")]
    Ranges,
}

#[derive(Default)]
struct Table {
    /// The name of index `n + 1`.
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, u32>,
    file: Option<File>,
}

/// Names and their addresses: one index for both families.
pub struct Names {
    v4: (Ipv4Addr, u32),
    v6: (Ipv6Addr, u32),
    table: RwLock<Table>,
    /// How many names there are.
    changes: watch::Sender<usize>,
}

impl Names {
    /// A table over two ranges; kept in `file`, one name a line, where given.
    pub fn open(v4: IpNet, v6: IpNet, file: Option<&Path>) -> Result<Self, NamesError> {
        let (IpNet::V4(v4), IpNet::V6(v6)) = (v4, v6) else {
            return Err(NamesError::Ranges);
        };
        let bound = u32::try_from(NAMES_MAX).unwrap_or(u32::MAX);
        // The first and the last address of the IPv4 range stay free.
        let room_v4 = 1u64
            .checked_shl(u32::from(32 - v4.prefix_len()))
            .unwrap_or(0)
            .saturating_sub(2);
        let room_v6 = 1u128
            .checked_shl(u32::from(128 - v6.prefix_len()))
            .unwrap_or(u128::MAX)
            .saturating_sub(1);
        let names = Names {
            v4: (v4.network(), u32::try_from(room_v4).unwrap_or(bound).min(bound)),
            v6: (v6.network(), u32::try_from(room_v6).unwrap_or(bound).min(bound)),
            table: RwLock::default(),
            changes: watch::Sender::new(0),
        };
        if let Some(path) = file {
            names.load(path)?;
        }
        Ok(names)
    }

    fn load(&self, path: &Path) -> Result<(), NamesError> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut table = self.table.write().map_err(|_| NamesError::Full)?;
        // A last line without its end was cut off by a crash: it was never answered with.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64)?;
        }
        for name in text.get(..whole).unwrap_or_default().lines() {
            if !table.push(name) {
                return Err(NamesError::Twice(name.to_owned()));
            }
        }
        table.file = Some(file);
        Ok(())
    }

    /// A name's index; a new one, kept before it is returned, if it has none.
    pub fn assign(&self, name: &str) -> Result<u32, NamesError> {
        if let Some(index) = self.index(name) {
            return Ok(index);
        }
        let mut table = self.table.write().map_err(|_| NamesError::Full)?;
        if let Some(index) = table.by_name.get(name) {
            return Ok(*index);
        }
        if table.names.len() >= self.v4.1.min(self.v6.1) as usize {
            return Err(NamesError::Full);
        }
        if let Some(file) = &mut table.file {
            file.write_all(format!("{name}\n").as_bytes())?;
            file.sync_data()?;
        }
        table.push(name);
        self.changes.send_replace(table.names.len());
        table.by_name.get(name).copied().ok_or(NamesError::Full)
    }

    /// Changes with every new name.
    pub fn changes(&self) -> watch::Receiver<usize> {
        self.changes.subscribe()
    }

    /// Every name and its index.
    pub fn all(&self) -> Vec<(u32, Arc<str>)> {
        let Ok(table) = self.table.read() else {
            return Vec::new();
        };
        (1..).zip(table.names.iter().cloned()).collect()
    }

    pub fn index(&self, name: &str) -> Option<u32> {
        self.table.read().ok()?.by_name.get(name).copied()
    }

    /// The virtual address of an index.
    pub fn address(&self, index: u32, v4: bool) -> Option<IpAddr> {
        if v4 {
            (index <= self.v4.1).then(|| Ipv4Addr::from_bits(self.v4.0.to_bits().wrapping_add(index)).into())
        } else {
            (index <= self.v6.1)
                .then(|| Ipv6Addr::from_bits(self.v6.0.to_bits().wrapping_add(index.into())).into())
        }
    }

    /// The name that a virtual address stands for.
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<str>> {
        let index = match address {
            IpAddr::V4(address) => address.to_bits().checked_sub(self.v4.0.to_bits())?,
            IpAddr::V6(address) => u32::try_from(address.to_bits().checked_sub(self.v6.0.to_bits())?).ok()?,
        };
        let place = usize::try_from(index).ok()?.checked_sub(1)?;
        self.table.read().ok()?.names.get(place).cloned()
    }
}

impl Table {
    fn push(&mut self, name: &str) -> bool {
        let name: Arc<str> = name.into();
        let Ok(index) = u32::try_from(self.names.len() + 1) else {
            return false;
        };
        let fresh = self.by_name.insert(Arc::clone(&name), index).is_none();
        self.names.push(name);
        fresh
    }
}

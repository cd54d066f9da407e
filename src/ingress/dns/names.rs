//! The bijection between names and virtual addresses. A name's place in the ranges is a hash of it, so
//! that two gateways before one tailnet agree whatever they saw first: a fail-over must not lead to
//! another endpoint. Append-only, so that nothing ever moves; where two names want one place, the
//! later gets the next that is free. Gateways that begin with one policy agree on these, too; those
//! that saw its names come one by one need not, and so `validate` and the log name them.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, RwLock};

use ipnet::IpNet;
use tokio::sync::watch;

use crate::policy::place::{last, place};

/// Names that may have an address, however large the ranges.
pub const NAMES_MAX: usize = 60_000;

/// Parts of the places of which one is for the names of policies alone: agents make others, and none is given up.
const KEPT_PART: usize = 16;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    #[error("the file of virtual addresses: {0}")]
    File(#[from] io::Error),
    #[error("the file of virtual addresses names {0:?} twice, or its place")]
    Twice(String),
    #[error("every virtual address is taken")]
    Full,
    #[error("virtual_v4 must be an IPv4 range and virtual_v6 an IPv6 range")]
    Ranges,
}

#[derive(Default)]
struct Table {
    /// In the order in which they came.
    names: Vec<Arc<str>>,
    by_index: HashMap<u32, Arc<str>>,
    by_name: HashMap<Arc<str>, u32>,
    file: Option<File>,
}

/// Names and their addresses: one index for both families.
pub struct Names {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    /// The last index that has an address in both ranges.
    last: u32,
    table: RwLock<Table>,
    /// How many names there are.
    changes: watch::Sender<usize>,
}

impl Names {
    /// A table over two ranges; kept in `file`, a name and its index a line, where given.
    pub fn open(v4: IpNet, v6: IpNet, file: Option<&Path>) -> Result<Self, NamesError> {
        let last = last(v4, v6);
        let (IpNet::V4(v4), IpNet::V6(v6)) = (v4, v6) else {
            return Err(NamesError::Ranges);
        };
        let names = Names {
            v4: v4.network(),
            v6: v6.network(),
            last,
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
        for (number, line) in (1..).zip(text.get(..whole).unwrap_or_default().lines()) {
            // Before places were hashed, a line was a name alone, and its number the index.
            let (name, index) = match line.split_once(' ') {
                Some((name, index)) => (name, index.parse().ok()),
                None => (line, Some(number).filter(|_| !table.by_name.contains_key(line))),
            };
            let placed = index.is_some_and(|index| table.put(name, index));
            if !placed {
                return Err(NamesError::Twice(name.to_owned()));
            }
        }
        // What lies outside a range that became smaller gets a place anew, on a later line.
        table.by_name.retain(|_, index| *index <= self.last);
        table.by_index.retain(|index, _| *index <= self.last);
        let Table { names, by_name, .. } = &mut *table;
        names.retain(|name| by_name.contains_key(name));
        table.file = Some(file);
        Ok(())
    }

    /// A name's index; a new one, kept before it is returned, if it has none.
    pub fn assign(&self, name: &str) -> Result<u32, NamesError> {
        self.assign_within(name, self.most())
    }

    /// As [`Names::assign`], for a name that an agent makes: a part of the places is kept for those of policies.
    pub fn assign_made(&self, name: &str) -> Result<u32, NamesError> {
        let most = self.most();
        self.assign_within(name, most - most / KEPT_PART)
    }

    fn most(&self) -> usize {
        NAMES_MAX.min(self.last as usize)
    }

    fn assign_within(&self, name: &str, most: usize) -> Result<u32, NamesError> {
        if let Some(index) = self.index(name) {
            return Ok(index);
        }
        let mut table = self.table.write().map_err(|_| NamesError::Full)?;
        if let Some(index) = table.by_name.get(name) {
            return Ok(*index);
        }
        if table.by_name.len() >= most {
            return Err(NamesError::Full);
        }
        let own = place(name, self.last);
        let index = (own..=self.last)
            .chain(1..own)
            .find(|index| !table.by_index.contains_key(index))
            .ok_or(NamesError::Full)?;
        if let Some(other) = table.by_index.get(&own) {
            tracing::warn!(
                name,
                %other,
                "both names want one virtual address: another gateway of the tailnet may give them the other way round; \
                 copy this one's file of names there"
            );
        }
        if let Some(file) = &mut table.file {
            let end = file.metadata()?.len();
            let line = format!("{name} {index}\n");
            let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
            if let Err(error) = written {
                // A half of a line, or one that nobody was answered with, would be in the next one's way.
                let _ = file.set_len(end);
                return Err(error.into());
            }
        }
        table.put(name, index);
        self.changes.send_replace(table.by_name.len());
        Ok(index)
    }

    /// Changes with every new name.
    pub fn changes(&self) -> watch::Receiver<usize> {
        self.changes.subscribe()
    }

    /// Every name and its index, the oldest first: what agents make comes after what the policy names.
    pub fn all(&self) -> Vec<(u32, Arc<str>)> {
        let Ok(table) = self.table.read() else {
            return Vec::new();
        };
        let names = table.names.iter();
        names
            .filter_map(|name| Some((*table.by_name.get(name)?, name.clone())))
            .collect()
    }

    pub fn index(&self, name: &str) -> Option<u32> {
        self.table.read().ok()?.by_name.get(name).copied()
    }

    /// The virtual address of an index.
    pub fn address(&self, index: u32, v4: bool) -> Option<IpAddr> {
        if index > self.last {
            return None;
        }
        Some(if v4 {
            Ipv4Addr::from_bits(self.v4.to_bits().wrapping_add(index)).into()
        } else {
            Ipv6Addr::from_bits(self.v6.to_bits().wrapping_add(index.into())).into()
        })
    }

    /// The name that a virtual address stands for.
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<str>> {
        let index = match address {
            IpAddr::V4(address) => address.to_bits().checked_sub(self.v4.to_bits())?,
            IpAddr::V6(address) => u32::try_from(address.to_bits().checked_sub(self.v6.to_bits())?).ok()?,
        };
        self.table.read().ok()?.by_index.get(&index).cloned()
    }
}

impl Table {
    /// Whether the name had no place, or another one before, and nobody is there.
    fn put(&mut self, name: &str, index: u32) -> bool {
        let name: Arc<str> = name.into();
        if index == 0 || self.by_index.contains_key(&index) {
            return false;
        }
        match self.by_name.insert(Arc::clone(&name), index) {
            Some(before) => drop(self.by_index.remove(&before)),
            None => self.names.push(Arc::clone(&name)),
        }
        self.by_index.insert(index, name);
        true
    }
}

//! Whether what is advertised can go round the gateway. Reads the kernel's settings, asks nobody.
//!
//! Real addresses are advertised only where what the gateway does not take is dropped: by the kernel,
//! because it leads nothing on from the tailnet's device, or by the table that `tailkeep setup`
//! loads. A 4via6 range needs the table always, since tailscaled dials there itself.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::localapi::Status;
use super::redirect::Device;
use super::routes::Plan;

/// Where the table lies that was loaded; gone with the next start of the machine, as the table is.
pub const LOADED: &str = "/run/tailkeep/intercept.nft";

/// Why real addresses are not advertised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unguarded {
    #[error(
        "tailscaled has no network device: it would dial {0} itself, past every rule. Give the endpoints names \
         (their virtual addresses are served), or let tailscaled run without --tun=userspace-networking"
    )]
    NoDevice(String),
    #[error("tailscaled's network device is not of this network namespace; run the gateway in tailscaled's")]
    Elsewhere,
    #[error(
        "this machine forwards packets ({0}), and the table that turns {1} to the gateway is not loaded or is of \
         other routes: run `tailkeep setup`, or switch forwarding off"
    )]
    Forwards(String, String),
    #[error(
        "tailscaled dials {0} itself, and the table that turns that to the gateway is not loaded or is of other \
         routes: run `tailkeep setup`"
    )]
    NoTable(String),
    #[error(
        "{0} is not local to this machine, so that its other routes would lead agents on: run `tailkeep setup`, or \
         ip route add local {0} dev lo"
    )]
    NotLocal(IpNet),
    #[error(
        "the kernel does not say whether {0} is local to this machine ({1}): let the gateway open AF_NETLINK sockets \
         (RestrictAddressFamilies= of its unit, or its container's seccomp profile)"
    )]
    Unknown(IpNet, String),
}

/// What may be advertised besides the virtual ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    pub real: bool,
    pub via: bool,
    /// The ranges of virtual addresses that do not end here, and so may not.
    pub elsewhere: Vec<IpNet>,
    /// What may not, and why.
    pub missing: Vec<Unguarded>,
}

impl Guarded {
    /// With the ranges of which [`local::elsewhere`](super::local::elsewhere) said so.
    #[must_use]
    pub fn but_for(mut self, elsewhere: Vec<(IpNet, Unguarded)>) -> Self {
        let why;
        (self.elsewhere, why) = elsewhere.into_iter().unzip();
        self.missing.extend::<Vec<_>>(why);
        self
    }
}

/// The first line of a table: what it is for. `user` is the account whose dials are not turned.
pub fn title(plan: &Plan, port: u16, device: &str, user: &str) -> String {
    let list = |nets: Vec<String>| match nets.is_empty() {
        true => "none".to_owned(),
        false => nets.join(" "),
    };
    let real = list(plan.real.iter().map(ToString::to_string).collect());
    let via = list(plan.via.iter().map(|via| via.cidr.to_string()).collect());
    format!("# tailkeep: real addresses {real}; sites' {via}; from {device} to port {port} of {user}")
}

/// Where the kernel's settings are read.
#[derive(Clone, Debug)]
pub struct Kernel {
    settings: PathBuf,
    loaded: PathBuf,
    /// This process's own account.
    user: String,
}

impl Default for Kernel {
    fn default() -> Self {
        Kernel {
            settings: PathBuf::from("/proc/sys/net"),
            loaded: PathBuf::from(LOADED),
            user: own_name(),
        }
    }
}

fn own_name() -> String {
    let id = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(id) {
        Ok(Some(user)) => user.name,
        _ => id.to_string(),
    }
}

impl Kernel {
    /// What of a plan may be advertised where tailscaled is as `status` says.
    pub fn guards(&self, plan: &Plan, status: &Status, port: u16) -> Guarded {
        if !plan.has_real() {
            return Guarded::default();
        }
        let device = status.addresses.iter().flatten().copied().find_map(Device::of);
        self.guards_behind(plan, status.has_device, device.as_ref(), port)
    }

    fn guards_behind(&self, plan: &Plan, has_device: bool, device: Option<&Device>, port: u16) -> Guarded {
        let mut guarded = Guarded::default();
        let texts = |nets: &mut dyn Iterator<Item = String>| nets.collect::<Vec<_>>().join(", ");
        let real = texts(&mut plan.real.iter().map(ToString::to_string));
        let via = texts(&mut plan.via.iter().map(|via| via.cidr.to_string()));
        if !has_device {
            let mut all = [real, via].into_iter().filter(|text| !text.is_empty());
            guarded.missing = vec![Unguarded::NoDevice(texts(&mut all))];
            return guarded;
        }
        let Some(device) = device else {
            guarded.missing = vec![Unguarded::Elsewhere];
            return guarded;
        };
        let has_table = self.has_table(&title(plan, port, &device.name, &self.user));
        if !plan.real.is_empty() {
            let setting = plan
                .real
                .iter()
                .find_map(|net| self.forwards(&device.name, net.addr()));
            match setting.filter(|_| !has_table) {
                Some(setting) => guarded.missing.push(Unguarded::Forwards(setting, real)),
                None => guarded.real = true,
            }
        }
        if !plan.via.is_empty() {
            match has_table {
                true => guarded.via = true,
                false => guarded.missing.push(Unguarded::NoTable(via)),
            }
        }
        guarded
    }

    /// Whether the table of this title was loaded since the machine started. The file says so, which
    /// only root may write: to read the table itself takes CAP_NET_ADMIN.
    pub fn has_table(&self, title: &str) -> bool {
        let is_roots =
            std::fs::metadata(&self.loaded).is_ok_and(|file| file.uid() == 0 && file.mode() & 0o022 == 0);
        let text = std::fs::read_to_string(&self.loaded).unwrap_or_default();
        is_roots && text.lines().next() == Some(title)
    }

    /// The setting by which packets of the device are led on; what cannot be read does.
    fn forwards(&self, device: &str, to: IpAddr) -> Option<String> {
        let name = match to {
            IpAddr::V4(_) => format!("ipv4/conf/{device}/forwarding"),
            // For IPv6 a device's own setting is about router advertisements.
            IpAddr::V6(_) => "ipv6/conf/all/forwarding".to_owned(),
        };
        let value = std::fs::read_to_string(self.settings.join(Path::new(&name)));
        let is_off = value.is_ok_and(|value| value.trim() == "0");
        (!is_off).then(|| format!("net/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Via;

    fn kernel(folder: &Path, v4: &str, v6: &str) -> Kernel {
        let settings = folder.join("net");
        for (name, value) in [("ipv4/conf/lo", v4), ("ipv6/conf/all", v6)] {
            std::fs::create_dir_all(settings.join(name)).unwrap();
            std::fs::write(settings.join(name).join("forwarding"), value).unwrap();
        }
        Kernel {
            settings,
            loaded: folder.join("loaded"),
            user: "keep".to_owned(),
        }
    }

    #[test]
    fn real_addresses_are_guarded_by_the_kernel_or_by_the_table() {
        let folder = tempfile::tempdir().unwrap();
        let lo = Device::of(IpAddr::from([127, 0, 0, 1])).unwrap();
        let plan = |real: &[&str], via: bool| Plan {
            real: real.iter().map(|net| net.parse().unwrap()).collect(),
            via: via
                .then(|| Via {
                    site: 7,
                    cidr: "10.1.0.0/16".parse().unwrap(),
                })
                .into_iter()
                .collect(),
            ..Plan::default()
        };
        let off = kernel(folder.path(), "0\n", "0\n");
        let guarded = |kernel: &Kernel, plan: &Plan| kernel.guards_behind(plan, true, Some(&lo), 8739);
        let both = plan(&["10.20.0.0/16", "fd20::/64"], false);
        assert!(guarded(&off, &both).real);
        let v6 = kernel(folder.path(), "0\n", "1\n");
        let found = guarded(&v6, &both);
        assert!(
            !found.real
                && matches!(&found.missing[..], [Unguarded::Forwards(name, _)] if name.contains("ipv6"))
        );
        assert!(
            guarded(&v6, &plan(&["10.20.0.0/16"], false)).real,
            "of the family alone"
        );
        let v4 = kernel(folder.path(), "1\n", "0\n");
        assert!(!guarded(&v4, &both).real);
        std::fs::remove_dir_all(folder.path().join("net")).unwrap();
        assert!(!guarded(&v4, &both).real, "what cannot be read");
        let with_site = plan(&["10.20.0.0/16"], true);
        assert!(!guarded(&off, &with_site).via);
        std::fs::write(
            &off.loaded,
            format!("{}\ntable …", title(&both, 8739, "lo", "keep")),
        )
        .unwrap();
        if nix::unistd::geteuid().is_root() {
            assert!(guarded(&v4, &both).real);
            assert!(!guarded(&v4, &with_site).real, "another table");
            assert!(
                !v4.guards_behind(&both, true, Some(&lo), 8740).real,
                "another port"
            );
            std::fs::write(&off.loaded, title(&with_site, 8739, "lo", "keep")).unwrap();
            assert!(guarded(&v4, &with_site).via);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(&off.loaded, mode).unwrap();
        }
        assert!(!guarded(&v4, &with_site).via, "anybody could have written it");
    }

    #[test]
    fn without_a_device_of_ours_nothing_real_is_advertised() {
        let folder = tempfile::tempdir().unwrap();
        let off = kernel(folder.path(), "0", "0");
        let plan = Plan {
            real: vec!["10.20.0.0/16".parse().unwrap()],
            ..Plan::default()
        };
        let found = off.guards_behind(&plan, false, None, 8739);
        assert!(
            !found.real
                && matches!(&found.missing[..], [Unguarded::NoDevice(nets)] if nets == "10.20.0.0/16")
        );
        let found = off.guards_behind(&plan, true, None, 8739);
        assert_eq!((found.real, found.missing), (false, vec![Unguarded::Elsewhere]));
    }
}

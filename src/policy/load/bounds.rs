//! The `audit` and `limits` blocks of the gateway. *Pure.*

use super::super::hcl::Fields;
use super::Loader;

impl<'a> Loader<'a> {
    pub(super) fn audit(&mut self, gateway: &Fields<'a>) {
        let Some(fields) = gateway.nested("audit") else {
            return;
        };
        let audit = &mut self.model.gateway.audit;
        let sizes: [(&'static str, &mut u64, _); 2] = [
            ("keep_days", &mut audit.keep_days, 0..=36_500),
            ("bytes_max", &mut audit.bytes_max, 0..=1 << 50),
        ];
        for (name, place, range) in sizes {
            if let Some(size) = fields.size(name, range).and_then(|size| u64::try_from(size).ok()) {
                *place = size;
            }
        }
        fields.finish();
    }

    pub(super) fn limits(&mut self, gateway: &Fields<'a>) {
        let Some(fields) = gateway.nested("limits") else {
            return;
        };
        let limits = &mut self.model.gateway.limits;
        let sizes: [(&'static str, &mut usize); 5] = [
            ("body_bytes_max", &mut limits.body_bytes_max),
            ("decoded_bytes_max", &mut limits.decoded_bytes_max),
            ("statement_bytes_max", &mut limits.statement_bytes_max),
            ("message_bytes_max", &mut limits.message_bytes_max),
            ("connections_max", &mut limits.connections_max),
        ];
        for (name, place) in sizes {
            if let Some(size) = fields
                .size(name, 1..=1 << 30)
                .and_then(|size| usize::try_from(size).ok())
            {
                *place = size;
            }
        }
        let times: [(&'static str, &mut u64); 3] = [
            ("connect_ms", &mut limits.connect_ms),
            ("handshake_ms", &mut limits.handshake_ms),
            ("idle_s", &mut limits.idle_s),
        ];
        for (name, place) in times {
            if let Some(time) = fields
                .size(name, 1..=1 << 30)
                .and_then(|time| u64::try_from(time).ok())
            {
                *place = time;
            }
        }
        fields.finish();
    }
}

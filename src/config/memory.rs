//! The memory that a configuration needs.

use super::Config;

impl Config {
    /// Octets of the buffers of the configuration, if all are full at one time.
    pub fn buffer_octets(&self) -> u64 {
        let inbound = if self.inbound.is_enabled() { self.inbound.buffer_max.as_u64() } else { 0 };
        let buffers = [
            self.smtp.inbound_buffer_max.as_u64(),
            self.api.inbound_buffer_max.as_u64(),
            self.relay.hot_queue_bytes_max.as_u64(),
            inbound,
        ];
        buffers.into_iter().fold(0, u64::saturating_add)
    }
}

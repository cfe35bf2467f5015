//! How much memory plans may take.

use std::fs;
use std::str::FromStr;

/// A limit in bytes, or what is right for the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMax {
    /// Half of what the process may have.
    Auto,
    /// So many.
    Bytes(u64),
}

impl MemoryMax {
    /// How many bytes that is here.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Auto => available().map_or(u64::MAX, |bytes| bytes / 2),
        }
    }
}

impl FromStr for MemoryMax {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bytes = text.parse().map(Self::Bytes);
        bytes.map_err(|_| "is neither auto nor a number of bytes".to_owned())
    }
}

/// What the process may have: what its control group may, else what the machine has.
fn available() -> Option<u64> {
    let of_group = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .into_iter()
    .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    });
    of_group.chain(of_machine).min()
}

#[cfg(test)]
mod tests {
    use super::MemoryMax;

    #[test]
    fn a_limit_is_auto_or_a_number_of_bytes() {
        assert_eq!("auto".parse(), Ok(MemoryMax::Auto));
        assert_eq!("1024".parse(), Ok(MemoryMax::Bytes(1_024)));
        assert!("1 GiB".parse::<MemoryMax>().is_err());
        assert!(MemoryMax::Auto.bytes() > 0);
    }
}

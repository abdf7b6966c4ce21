//! Amounts as manifests write them: `500m`, `0.5` or `2` cores, `256Mi`, `2Gi` or `256MB` of memory.
//!
//! Kept as whole numbers (thousandths of a core, bytes) and written back in the shortest exact form. Deliberately absent:
//! what amount makes sense for a workload (the manifest's checks know that).
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// CPU time in thousandths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millicores(pub u32);

/// An amount of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Most CPU that a manifest may name: a thousand cores.
pub const MAX_MILLICORES: u32 = 1_000_000;
/// Most bytes that a manifest may name: 4 PiB, far below what JSON numbers hold exactly.
pub const MAX_BYTES: u64 = 1 << 52;

/// A text that is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    #[error("'{0}' is not an amount of CPU: write thousandths of a core as 500m, or cores as 0.5 or 2 (at most 1000)")]
    Cpu(String),
    #[error(
        "'{0}' is not an amount of memory: write bytes, or a number with Ki, Mi, Gi, Ti (1024) or kB, MB, GB, TB (1000)"
    )]
    Memory(String),
}

/// What goes into an error is bounded: the text may come from anywhere.
fn shown(s: &str) -> String {
    s.chars().take(40).collect()
}

/// Value of a plain decimal number times `unit`, when that is a whole number.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let dangling = number.contains('.') && fraction.is_empty();
    if whole.is_empty() || dangling || fraction.len() > 12 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let divisor = 10_u128.pow(fraction.len() as u32);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    if part % divisor != 0 {
        return None;
    }
    whole.checked_add(u64::try_from(part / divisor).ok()?)
}

impl FromStr for Millicores {
    type Err = InvalidAmount;
    fn from_str(s: &str) -> Result<Self, InvalidAmount> {
        let value = match s.strip_suffix('m') {
            Some(thousandths) if !thousandths.contains('.') => scaled(thousandths, 1),
            Some(_) => None,
            None => scaled(s, 1000),
        };
        value
            .and_then(|v| u32::try_from(v).ok())
            .filter(|v| (1..=MAX_MILLICORES).contains(v))
            .map(Self)
            .ok_or_else(|| InvalidAmount::Cpu(shown(s)))
    }
}

const BYTE_UNITS: [(&str, u64); 13] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

impl FromStr for Bytes {
    type Err = InvalidAmount;
    fn from_str(s: &str) -> Result<Self, InvalidAmount> {
        let with_unit = BYTE_UNITS.iter().find_map(|(suffix, unit)| Some((s.strip_suffix(suffix)?, *unit)));
        let (number, unit) = with_unit.unwrap_or((s, 1));
        scaled(number, unit)
            .filter(|v| (1..=MAX_BYTES).contains(v))
            .map(Self)
            .ok_or_else(|| InvalidAmount::Memory(shown(s)))
    }
}

impl fmt::Display for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Powers of two only: they are exact whatever the operator wrote.
        match BYTE_UNITS[..4].iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// An amount of bytes for people: `12 B`, `1.5 KiB`, `5.0 GiB`.
pub fn human_bytes(b: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = b as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{b} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A text, or a number that is read as its text.
struct Written(String);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Written;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as 500m, 2 or 256Mi")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Written, E> {
                Ok(Written(v.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Written, E> {
                Ok(Written(v.to_string()))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Written, E> {
                Ok(Written(v.to_string()))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Written, E> {
                Ok(Written(v.to_string()))
            }
        }
        d.deserialize_any(Visitor)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Written::deserialize(d)?.0.parse().map_err(de::Error::custom)
            }
        }
    };
}
as_text!(Millicores);
as_text!(Bytes);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, want) in [("500m", 500), ("0.5", 500), ("2", 2000), ("1.25", 1250), ("1m", 1)] {
            assert_eq!(text.parse::<Millicores>().expect(text).0, want, "{text}");
        }
        for (text, want) in [
            ("256Mi", 256 << 20),
            ("2Gi", 2 << 30),
            ("256MB", 256_000_000),
            ("1.5Gi", 3 << 29),
            ("4096", 4096),
            ("64k", 64_000),
        ] {
            assert_eq!(text.parse::<Bytes>().expect(text).0, want, "{text}");
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused_with_the_value_and_what_is_allowed() {
        for bad in ["", "0", "m", "0.0001", "-1", "1.", ".5", "1.5m", "1e3", "2 cores", "1001", "٣"] {
            let e = bad.parse::<Millicores>().expect_err(bad).to_string();
            assert!(e.starts_with(&format!("'{bad}' is not an amount of CPU: write")), "{e}");
        }
        for bad in ["", "0", "Mi", "12XB", "0.3", "-1Mi", "99999999Ti", "1 Gi"] {
            let e = bad.parse::<Bytes>().expect_err(bad).to_string();
            assert!(e.starts_with(&format!("'{bad}' is not an amount of memory: write")), "{e}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_written_and_read_again_is_the_same(cpu in 1..=MAX_MILLICORES, bytes in 1..=MAX_BYTES, shift in 0..20_u32) {
            prop_assert_eq!(Millicores(cpu).to_string().parse(), Ok(Millicores(cpu)));
            let bytes = Bytes(((bytes >> shift).max(1) << shift).min(MAX_BYTES));
            prop_assert_eq!(bytes.to_string().parse(), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            drop(text.parse::<Millicores>());
            drop(text.parse::<Bytes>());
        }
    }
}

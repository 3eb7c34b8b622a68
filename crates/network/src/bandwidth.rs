//! The pod annotations that limit a pod's bandwidth, as the CNI capability `bandwidth`.
//!
//! As CRI-O reads them: any quantity of Kubernetes is taken, what is no whole number or not above 0
//! limits nothing, and what is no quantity fails the pod.

use std::collections::BTreeMap;

use serde::Serialize;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Burst in bits: the plugin wants one with a rate. CRI-O's figure, the most that the plugin takes:
/// 4 GB.
const BURST: u64 = u32::MAX as u64 * 8 - 1;

/// Rates in bits per second and bursts in bits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub ingress_rate: u64,
    /// Burst towards the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub ingress_burst: u64,
    /// From the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub egress_rate: u64,
    /// Burst from the pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub egress_burst: u64,
}

/// A bandwidth annotation that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse {direction} bandwidth: {value:?}: {why}")]
pub struct BadBandwidth {
    /// `egress` or `ingress`.
    pub direction: &'static str,
    /// The annotation's value.
    pub value: String,
    /// What is wrong with it, in the words of Kubernetes.
    pub why: &'static str,
}

impl Bandwidth {
    /// Reads the two annotations; `None` where neither limits anything.
    ///
    /// # Errors
    /// A value that is no quantity.
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, BadBandwidth> {
        let rate = |annotation: &str, direction| {
            let Some(value) = annotations.get(annotation) else {
                return Ok(0);
            };
            quantity(value).map_err(|why| BadBandwidth {
                direction,
                value: value.clone(),
                why,
            })
        };
        let (egress, ingress) = (rate(EGRESS, "egress")?, rate(INGRESS, "ingress")?);
        if ingress == 0 && egress == 0 {
            return Ok(None);
        }
        let burst = |rate: u64| if rate == 0 { 0 } else { BURST };
        Ok(Some(Self {
            ingress_rate: ingress,
            ingress_burst: burst(ingress),
            egress_rate: egress,
            egress_burst: burst(egress),
        }))
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Reads a quantity (`apimachinery`, `pkg/api/resource`, "Quantity"): a sign, digits with a point,
/// and a suffix that is a unit or an exponent of ten. What is not a whole number from 1 to the
/// largest of 63 bits is 0.
fn quantity(text: &str) -> Result<u64, &'static str> {
    const FORM: &str = "quantities must match the regular expression \
                        '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    let (negative, unsigned) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let digits = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at_checked(digits).ok_or(FORM)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(FORM);
    }
    let (multiplier, exponent) = unit(suffix).ok_or("unable to parse quantity's suffix")?;
    let value = decimal(whole, fraction, multiplier, exponent);
    Ok(value.filter(|_| !negative).unwrap_or(0))
}

/// A suffix as a factor and a power of ten.
fn unit(suffix: &str) -> Option<(u64, i32)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(place) = (1..).zip(binary).find(|(_, name)| *name == suffix) {
        return Some((1 << (10 * place.0), 0));
    }
    let power = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            exponent.parse().ok()?
        }
    };
    Some((1, power))
}

/// The number, if it is a whole one that fits into 63 bits.
fn decimal(whole: &str, fraction: &str, multiplier: u64, exponent: i32) -> Option<u64> {
    let fraction = fraction.trim_end_matches('0');
    let digits = [whole.trim_start_matches('0'), fraction].concat();
    if digits.bytes().all(|byte| byte == b'0') {
        return Some(0);
    }
    // More digits than these are none that fit, or not whole ones.
    let digits: u128 = (digits.len() <= 30).then(|| digits.parse().ok())??;
    let scaled = digits.checked_mul(multiplier.into())?;
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10u128.checked_pow(exponent.unsigned_abs())?;
    let value = if exponent < 0 {
        (scaled % power == 0).then(|| scaled / power)?
    } else {
        scaled.checked_mul(power)?
    };
    u64::try_from(value)
        .ok()
        .filter(|value| i64::try_from(*value).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, bits) in [
            ("10M", Some(10_000_000)),
            ("+10M", Some(10_000_000)),
            ("1.5M", Some(1_500_000)),
            ("1.50000M", Some(1_500_000)),
            ("0.5Ki", Some(512)),
            ("1Ki", Some(1024)),
            ("1Ei", Some(1 << 60)),
            ("1000", Some(1000)),
            ("999", Some(999)),
            (".5M", Some(500_000)),
            ("5.", Some(5)),
            ("1e3", Some(1000)),
            ("1E-2", Some(0)),
            ("1e+3", Some(1000)),
            ("2000000m", Some(2000)),
            ("1m", Some(0)),
            ("0", Some(0)),
            ("-1M", Some(0)),
            ("99999999999999999999", Some(0)),
            ("1e99999", Some(0)),
            ("9E", Some(9_000_000_000_000_000_000)),
            ("10E", Some(0)),
            ("", None),
            ("M", None),
            (".", None),
            ("1 M", None),
            ("1.2.3", None),
            ("1K", None),
            ("1e", None),
            ("1e+-3", None),
            ("1e99999999999", None),
            ("--1", None),
        ] {
            assert_eq!(quantity(text).ok(), bits, "{text:?}");
        }
    }

    #[test]
    fn annotations_become_rates_with_bursts() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Bandwidth::from_annotations(&pairs.collect())
        };
        let limited = with(&[(INGRESS, "1M")]).unwrap().unwrap();
        assert_eq!(limited.ingress_rate, 1_000_000);
        assert_eq!(limited.ingress_burst, 34_359_738_359);
        assert_eq!((limited.egress_rate, limited.egress_burst), (0, 0));
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&[(INGRESS, "0"), (EGRESS, "-1")]), Ok(None));
        let wrong = with(&[(INGRESS, "1M"), (EGRESS, "fast")]).unwrap_err();
        let text = wrong.to_string();
        let begins = "failed to parse egress bandwidth: \"fast\": quantities must match";
        assert!(text.starts_with(begins), "{text}");
        let wrong = with(&[(INGRESS, "1MB")]).unwrap_err();
        assert_eq!(wrong.why, "unable to parse quantity's suffix");
    }
}

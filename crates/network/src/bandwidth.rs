//! The pod annotations that limit a pod's bandwidth, as the CNI capability `bandwidth`.

use std::collections::BTreeMap;

use serde::Serialize;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Smallest and largest rate in bits per second that Kubernetes accepts (1k and 1P).
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// Burst in bits: the plugin wants one with a rate; CRI-O's figure.
const BURST: u64 = i32::MAX as u64;

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

/// A bandwidth annotation that is no quantity from 1k to 1P.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?} is not a rate from 1k to 1P bits per second")]
pub struct BadBandwidth {
    /// The annotation's key.
    pub annotation: &'static str,
    /// Its value.
    pub value: String,
}

impl Bandwidth {
    /// Reads the two annotations; `None` where there is neither.
    ///
    /// # Errors
    /// A value that Kubernetes would refuse as well.
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, BadBandwidth> {
        let ingress = rate(annotations, INGRESS)?;
        let egress = rate(annotations, EGRESS)?;
        if ingress.is_none() && egress.is_none() {
            return Ok(None);
        }
        let burst = |rate: Option<u64>| rate.map_or(0, |_| BURST);
        Ok(Some(Self {
            ingress_rate: ingress.unwrap_or(0),
            ingress_burst: burst(ingress),
            egress_rate: egress.unwrap_or(0),
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

fn rate(
    annotations: &BTreeMap<String, String>,
    annotation: &'static str,
) -> Result<Option<u64>, BadBandwidth> {
    let Some(value) = annotations.get(annotation) else {
        return Ok(None);
    };
    match quantity(value).filter(|rate| RATES.contains(rate)) {
        Some(rate) => Ok(Some(rate)),
        None => Err(BadBandwidth {
            annotation,
            value: value.clone(),
        }),
    }
}

/// A whole Kubernetes quantity: digits, an optional fraction, a decimal or binary suffix.
fn quantity(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(digits)?;
    let unit: u128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let bits = whole
        .checked_mul(unit)?
        .checked_add(fraction.checked_mul(unit)? / scale)?;
    u64::try_from(bits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, bits) in [
            ("10M", Some(10_000_000)),
            ("1.5M", Some(1_500_000)),
            ("1Ki", Some(1024)),
            ("1000", Some(1000)),
            (".5M", Some(500_000)),
            ("", None),
            ("M", None),
            ("1m", None),
            ("1 M", None),
            ("-1M", None),
            ("1.2.3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(quantity(text), bits, "{text:?}");
        }
    }

    #[test]
    fn a_rate_outside_the_bounds_is_refused() {
        let with = |value: &str| {
            Bandwidth::from_annotations(&BTreeMap::from([(INGRESS.to_owned(), value.to_owned())]))
        };
        assert_eq!(with("1M").unwrap().unwrap().ingress_rate, 1_000_000);
        assert_eq!(with("1M").unwrap().unwrap().egress_burst, 0);
        assert!(with("999").is_err());
        assert!(with("2P").is_err());
        assert_eq!(Bandwidth::from_annotations(&BTreeMap::new()), Ok(None));
    }
}

//! Results of plugins: their addresses, and their conversion between versions of the
//! specification.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::version::Version;

/// A plugin's result as JSON, in the version that it says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CniResult {
    version: Version,
    object: Map<String, Value>,
}

impl CniResult {
    /// Reads what a plugin printed when it was given a configuration of version `asked`.
    pub(crate) fn parse(bytes: &[u8], asked: Version) -> Result<Self, String> {
        let object: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| format!("not a JSON object: {error}"))?;
        Self::from_object(object, asked)
    }

    /// The same of an object that was parsed.
    pub(crate) fn from_object(
        mut object: Map<String, Value>,
        asked: Version,
    ) -> Result<Self, String> {
        let version = match object.get("cniVersion") {
            None => asked,
            Some(Value::String(text)) => {
                Version::parse(text).ok_or_else(|| format!("unknown cniVersion {text:?}"))?
            }
            Some(_) => return Err("cniVersion is no string".to_owned()),
        };
        object.insert("cniVersion".to_owned(), json!(version.to_string()));
        let result = Self { version, object };
        for address in result.addresses() {
            if address.parse::<IpAddr>().is_err() {
                return Err(format!("{address:?} is no IP address"));
            }
        }
        Ok(result)
    }

    /// A result that says nothing: what an ADD that has not ended has.
    pub(crate) fn empty(version: Version) -> Self {
        Self {
            version,
            object: Map::from_iter([("cniVersion".to_owned(), json!(version.to_string()))]),
        }
    }

    /// Whether it is [`CniResult::empty`].
    pub(crate) fn is_empty(&self) -> bool {
        self.object.len() == 1
    }

    /// Its addresses in its own order: the first is the pod's primary one.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        let mut ips = Vec::new();
        for ip in self.addresses().filter_map(|address| address.parse().ok()) {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        ips
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        let listed = self
            .object
            .get("ips")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let single = ["ip4", "ip6"]
            .into_iter()
            .filter_map(|key| self.object.get(key));
        listed
            .filter_map(|ip| ip.get("address"))
            .chain(single.filter_map(|ip| ip.get("ip")))
            .filter_map(Value::as_str)
            .map(|address| address.split_once('/').map_or(address, |(ip, _)| ip))
    }

    /// The JSON object.
    pub(crate) fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// The same in at least 1.0.0, the form that CRI-O keeps in its `CNIResult` annotation.
    pub(crate) fn upgraded(&self) -> Self {
        self.converted(self.version.max(Version::IPS_WITHOUT_VERSION))
    }

    /// The same in another version of the specification.
    pub(crate) fn converted(&self, to: Version) -> Self {
        if to == self.version {
            return self.clone();
        }
        let mut object = match (self.version < Version::IP_LIST, to < Version::IP_LIST) {
            (true, false) => listed(&self.object),
            (false, true) => by_family(&self.object),
            (true, true) | (false, false) => self.object.clone(),
        };
        if to >= Version::IP_LIST {
            mark_families(&mut object, to < Version::IPS_WITHOUT_VERSION);
        }
        object.insert("cniVersion".to_owned(), json!(to.to_string()));
        Self {
            version: to,
            object,
        }
    }
}

/// From `ip4` and `ip6` (0.2.0 and older) to `ips` and `routes`.
fn listed(old: &Map<String, Value>) -> Map<String, Value> {
    let mut new = Map::from_iter([("cniVersion".to_owned(), Value::Null)]);
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for family in ["ip4", "ip6"] {
        let Some(config) = old.get(family).and_then(Value::as_object) else {
            continue;
        };
        let mut ip = Map::new();
        ip.insert(
            "address".to_owned(),
            config.get("ip").cloned().unwrap_or_default(),
        );
        if let Some(gateway) = config.get("gateway") {
            ip.insert("gateway".to_owned(), gateway.clone());
        }
        ips.push(Value::Object(ip));
        routes.extend(
            config
                .get("routes")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .cloned(),
        );
    }
    new.insert("ips".to_owned(), Value::Array(ips));
    if !routes.is_empty() {
        new.insert("routes".to_owned(), Value::Array(routes));
    }
    if let Some(dns) = old.get("dns") {
        new.insert("dns".to_owned(), dns.clone());
    }
    new
}

/// From `ips` and `routes` to `ip4` and `ip6`, which hold one address each.
fn by_family(new: &Map<String, Value>) -> Map<String, Value> {
    let mut old = Map::from_iter([("cniVersion".to_owned(), Value::Null)]);
    let array = |key: &str| new.get(key).and_then(Value::as_array).into_iter().flatten();
    for (family, is_v6) in [("ip4", false), ("ip6", true)] {
        let text = |value: &Value, key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let fits = |ip: &&Value| {
            let address = text(ip, "address");
            !address.is_empty() && address.contains(':') == is_v6
        };
        let Some(ip) = array("ips").find(fits) else {
            continue;
        };
        let mut config = Map::from_iter([("ip".to_owned(), json!(text(ip, "address")))]);
        if let Some(gateway) = ip.get("gateway") {
            config.insert("gateway".to_owned(), gateway.clone());
        }
        let routes: Vec<_> = array("routes")
            .filter(|route| text(route, "dst").contains(':') == is_v6)
            .collect();
        if !routes.is_empty() {
            config.insert("routes".to_owned(), json!(routes));
        }
        old.insert(family.to_owned(), Value::Object(config));
    }
    if let Some(dns) = new.get("dns") {
        old.insert("dns".to_owned(), dns.clone());
    }
    old
}

/// `ips` say "4" or "6" before 1.0.0 and nothing from there on.
fn mark_families(object: &mut Map<String, Value>, wanted: bool) {
    let ips = object
        .get_mut("ips")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for ip in ips.filter_map(Value::as_object_mut) {
        if wanted {
            let is_v6 = ip
                .get("address")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .contains(':');
            ip.insert("version".to_owned(), json!(if is_v6 { "6" } else { "4" }));
        } else {
            ip.shift_remove("version");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> CniResult {
        CniResult::parse(value.to_string().as_bytes(), Version::OLDEST).unwrap()
    }

    #[test]
    fn addresses_are_read_from_every_version() {
        for (value, ips) in [
            (
                json!({"ip4": {"ip": "10.1.0.2/16"}, "ip6": {"ip": "fd00::2/64"}}),
                "10.1.0.2 fd00::2",
            ),
            (
                json!({"cniVersion": "0.4.0", "ips": [{"version": "6", "address": "fd00::2/64"},
                       {"version": "4", "address": "10.1.0.2/16"}]}),
                "fd00::2 10.1.0.2",
            ),
            (
                json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/16"}]}),
                "10.1.0.2",
            ),
            (json!({"cniVersion": "1.0.0"}), ""),
        ] {
            let found: Vec<_> = parse(&value)
                .ips()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found.join(" "), ips, "{value}");
        }
    }

    #[test]
    fn a_result_survives_conversion_there_and_back() {
        let modern = parse(
            &json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/16",
            "gateway": "10.1.0.1"}], "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}),
        );
        let old = modern.converted(Version::OLDEST);
        assert_eq!(old.object["ip4"]["gateway"], "10.1.0.1");
        assert_eq!(old.converted(Version::IPS_WITHOUT_VERSION), modern);
        let middle = modern.converted(Version::PREV_RESULT_ON_DEL);
        assert_eq!(middle.object["ips"][0]["version"], "4");
        assert_eq!(middle.upgraded(), modern);
        let without = parse(&json!({"cniVersion": "1.0.0", "ips": [{"gateway": "10.1.0.1"}]}));
        assert!(without.converted(Version::OLDEST).is_empty());
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [
            "",
            "[]",
            "{\"cniVersion\": 1}",
            "{\"cniVersion\": \"9.9.9\"}",
            "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"nonsense\"}]}",
        ] {
            assert!(
                CniResult::parse(bytes.as_bytes(), Version::OLDEST).is_err(),
                "{bytes}"
            );
        }
    }
}

//! What the fuzz targets do with this crate's decoders: each function takes any bytes and fails
//! where a decoder breaks a promise.

use std::path::{Component, Path};

use crate::config::NetworkConfig;
use crate::limits;
use crate::result::CniResult;
use crate::version::Version;

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// Configurations: what becomes part of paths is one component, plugins are bounded, and what the
/// cache keeps reads as the same network.
pub fn config(bytes: &[u8]) {
    let Ok(config) = NetworkConfig::parse(bytes, None) else {
        return;
    };
    assert!(is_file_name(&config.name));
    assert!((1..=limits::PLUGINS).contains(&config.plugins.len()));
    assert!(
        config
            .plugins
            .iter()
            .all(|plugin| is_file_name(&plugin.kind))
    );
    let again = NetworkConfig::parse(&config.bytes, None).expect("our own list");
    let words = |config: &NetworkConfig| {
        let plugins = config.plugins.iter();
        let plugins: Vec<_> = plugins.map(|plugin| plugin.object.clone()).collect();
        (
            config.name.clone(),
            config.version,
            config.disable_gc,
            plugins,
        )
    };
    assert_eq!(words(&again), words(&config));
    assert_eq!(again.bytes, config.bytes);
}

fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(one)), None) if one == name)
}

/// Results: every address is one, no conversion makes one up, and a result comes back from its
/// object in every version.
pub fn result(bytes: &[u8]) {
    for asked in VERSIONS.into_iter().filter_map(Version::parse) {
        let Ok(result) = CniResult::parse(bytes, asked) else {
            continue;
        };
        let again = CniResult::from_object(result.object().clone(), asked);
        assert_eq!(again.as_ref(), Ok(&result));
        let ips = result.ips();
        for to in VERSIONS.into_iter().filter_map(Version::parse) {
            let converted = result.converted(to);
            assert!(converted.ips().iter().all(|ip| ips.contains(ip)));
            let again = CniResult::from_object(converted.object().clone(), asked);
            assert_eq!(again.as_ref(), Ok(&converted));
        }
        let upgraded = result.upgraded();
        assert_eq!(upgraded.upgraded(), upgraded);
    }
}

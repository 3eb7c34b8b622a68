//! Which proxy leads to a URL: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in capitals or not, by the
//! rules of Go's `net/http`, which CRI-O's environment is written for.
//!
//! Source: the documentation of `golang.org/x/net/http/httpproxy`, `Config`.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// The proxies of an environment.
pub(super) struct Proxies {
    proxies: Matcher,
    exceptions: Vec<Exception>,
}

/// What is reached directly.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    /// Everything.
    All,
    /// The addresses that begin with these bits.
    Network(IpAddr, u32),
    /// A host or an address, at one port if that is said.
    Host(Name, Option<u16>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Address(IpAddr),
    /// The names that end with `.` and this, and with `whole` this name itself.
    Domain {
        suffix: String,
        whole: bool,
    },
}

impl Proxies {
    /// Those of this process's environment.
    pub(super) fn from_env() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| {
            let found = [name.to_owned(), name.to_ascii_lowercase()];
            let mut found = found.iter().filter_map(|name| variable(name));
            found.find(|value| !value.is_empty()).unwrap_or_default()
        };
        let proxies = Matcher::builder()
            .http(value("HTTP_PROXY"))
            .https(value("HTTPS_PROXY"))
            .build();
        let exceptions = value("NO_PROXY");
        let exceptions = exceptions.split(',').filter_map(Exception::parse);
        Self {
            proxies,
            exceptions: exceptions.collect(),
        }
    }

    /// The proxy for a URL, where there is one. This host is always reached directly.
    pub(super) fn intercept(&self, url: &Uri) -> Option<Intercept> {
        let host = url.host()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let of_scheme = if url.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = url.port_u16().unwrap_or(of_scheme);
        let own = host == "localhost" || address.is_some_and(|ip| ip.to_canonical().is_loopback());
        let excepted = || {
            let mut exceptions = self.exceptions.iter();
            exceptions.any(|exception| exception.covers(&host, address, port))
        };
        if own || excepted() {
            return None;
        }
        self.proxies.intercept(url)
    }
}

impl fmt::Debug for Proxies {
    /// Their URLs may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exceptions = &self.exceptions;
        let mut shown = f.debug_struct("Proxies");
        shown
            .field("exceptions", exceptions)
            .finish_non_exhaustive()
    }
}

impl Exception {
    /// One of the list's; `None` for what says nothing.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = text.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse(), bits.parse())
        {
            let all = match address {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            return (bits <= all).then_some(Self::Network(address, bits));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Host(Name::Address(address), None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse() {
            return Some(Self::Host(Name::Address(address), port));
        }
        let domain = host.strip_prefix('*').unwrap_or(host);
        let beneath = domain.strip_prefix('.');
        let suffix = beneath.unwrap_or(domain).to_owned();
        let whole = beneath.is_none();
        (!suffix.is_empty()).then_some(Self::Host(Name::Domain { suffix, whole }, port))
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| begins_alike(address, *network, *bits))
            }
            Self::Host(_, Some(only)) if *only != port => false,
            Self::Host(Name::Address(known), _) => address == Some(*known),
            Self::Host(Name::Domain { suffix, whole }, _) => {
                match host.strip_suffix(suffix.as_str()) {
                    Some("") => *whole,
                    Some(before) => before.ends_with('.'),
                    None => false,
                }
            }
        }
    }
}

/// Whether two addresses of one family have the same first `bits`.
fn begins_alike(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        let proxy = proxies.intercept(&url.parse().unwrap())?;
        proxy.uri().authority().map(ToString::to_string)
    }

    #[test]
    fn a_scheme_has_its_proxy_and_this_host_none() {
        let found = proxies(&[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "p:2")]);
        for (url, proxy) in [
            ("https://a.io/v2/", Some("s:1")),
            ("http://a.io:5000/v2/", Some("p:2")),
            ("https://localhost:5000/", None),
            ("http://127.9.9.9/", None),
            ("https://[::1]:5000/", None),
            ("https://[::ffff:127.0.0.1]/", None),
            ("https://10.0.0.1/", Some("s:1")),
        ] {
            assert_eq!(through(&found, url).as_deref(), proxy, "{url}");
        }
        let none = proxies(&[("HTTP_PROXY", ""), ("ALL_PROXY", "http://all:1")]);
        assert_eq!(through(&none, "http://a.io/"), None);
    }

    #[test]
    fn exceptions_are_those_of_go() {
        for (exceptions, url, direct) in [
            ("*", "https://a.io/", true),
            (" a.io , b.io", "https://b.io/", true),
            ("a.io", "https://x.A.io/", true),
            ("a.io", "https://xa.io/", false),
            (".a.io", "https://a.io/", false),
            (".a.io", "https://x.a.io/", true),
            ("*.a.io", "https://x.a.io/", true),
            ("*.a.io", "https://a.io/", false),
            ("a.io:5000", "https://a.io:5000/", true),
            ("a.io:5000", "https://a.io/", false),
            ("a.io:443", "https://a.io/", true),
            ("10.0.0.0/8", "https://10.255.1.2:5000/", true),
            ("10.0.0.0/8", "https://11.0.0.1/", false),
            ("10.0.0.0/8", "https://[::10]/", false),
            ("10.1.2.3/0", "https://11.0.0.1/", true),
            ("10.1.2.3", "https://10.1.2.3/", true),
            ("10.1.2.3:80", "https://10.1.2.3/", false),
            ("fd00::/8", "https://[fd12::1]:5000/", true),
            ("fd00::/8", "https://[fe00::1]/", false),
            ("[fd00::1]:5000", "https://[fd00::1]:5000/", true),
            ("fd00::1", "https://[fd00::1]/", true),
            ("10.0.0.0/33", "https://10.0.0.1/", false),
            (",, ,.,*.,:80", "https://a.io/", false),
        ] {
            let found = proxies(&[("HTTPS_PROXY", "http://s:1"), ("NO_PROXY", exceptions)]);
            let proxy = through(&found, url);
            assert_eq!(proxy.is_none(), direct, "{exceptions:?} {url}");
        }
        let shown = proxies(&[("HTTPS_PROXY", "http://user:secret@s:1")]);
        assert!(!format!("{shown:?}").contains("secret"));
    }
}

//! Where metrics and health are served: FelixConfiguration's fields, and the same in the node's configuration.

use crate::control::yaml::{Field, FieldError, quoted};

/// One of the two as one source sets it; `None` leaves it to the next more general one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    pub enabled: Option<bool>,
    /// Address or name; empty: all addresses of the host.
    pub host: Option<String>,
    pub port: Option<u16>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address or name; empty: all addresses of the host.
    pub host: String,
    pub port: u16,
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitoring {
    pub metrics: Listen,
    pub health: Listen,
}

impl Listen {
    /// Reads the three fields by their names: enabled, host, port.
    pub(in crate::control) fn read(f: &Field, names: [&str; 3]) -> Result<Listen, FieldError> {
        let host = f.get(names[1])?;
        let name = host.text()?.map(str::to_owned);
        if let Some(h) = &name
            && !h.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-_%[]".contains(&b))
        {
            return Err(host.error(format!("{} is not an address or a host name; leave it empty for all addresses", quoted(h))));
        }
        Ok(Listen { enabled: f.get(names[0])?.boolean()?, host: name, port: f.get(names[2])?.number(1, 65535)? })
    }

    /// This one's settings where it has them, `general`'s otherwise.
    pub fn over(&self, general: &Listen) -> Listen {
        Listen {
            enabled: self.enabled.or(general.enabled),
            host: self.host.clone().or_else(|| general.host.clone()),
            port: self.port.or(general.port),
        }
    }

    /// Where to listen, `None` if not at all: off unless switched on, as in Calico.
    pub fn endpoint(&self, host: &str, port: u16) -> Option<Endpoint> {
        self.enabled
            .unwrap_or(false)
            .then(|| Endpoint { host: self.host.clone().unwrap_or_else(|| host.to_owned()), port: self.port.unwrap_or(port) })
    }
}

impl Monitoring {
    pub fn over(&self, general: &Monitoring) -> Monitoring {
        Monitoring { metrics: self.metrics.over(&general.metrics), health: self.health.over(&general.health) }
    }

    /// Where metrics are served: port 9091 of all addresses unless set otherwise.
    pub fn metrics(&self) -> Option<Endpoint> {
        self.metrics.endpoint("", 9091)
    }

    /// Where health is served: port 9099 of the loopback address unless set otherwise.
    pub fn health(&self) -> Option<Endpoint> {
        self.health.endpoint("localhost", 9099)
    }
}

/// FelixConfiguration's spec.
pub(super) fn read(spec: &Field) -> Result<Monitoring, FieldError> {
    Ok(Monitoring {
        metrics: Listen::read(spec, ["prometheusMetricsEnabled", "prometheusMetricsHost", "prometheusMetricsPort"])?,
        health: Listen::read(spec, ["healthEnabled", "healthHost", "healthPort"])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn spec(text: &str) -> Result<Monitoring, String> {
        let docs = documents(text).unwrap();
        read(&Field::root(&docs[0])).map_err(|e| e.to_string())
    }

    #[test]
    fn off_unless_switched_on_and_the_nearer_source_wins() {
        let none = spec("{}").unwrap();
        assert_eq!((none.metrics(), none.health()), (None, None));
        let felix = spec("{prometheusMetricsEnabled: true, healthEnabled: true, healthPort: 9199}").unwrap();
        assert_eq!(felix.metrics(), Some(Endpoint { host: String::new(), port: 9091 }));
        assert_eq!(felix.health(), Some(Endpoint { host: "localhost".into(), port: 9199 }));
        let own = spec("{prometheusMetricsHost: 10.0.0.1, prometheusMetricsPort: 19091, healthEnabled: false}").unwrap();
        let both = own.over(&felix);
        assert_eq!(both.metrics(), Some(Endpoint { host: "10.0.0.1".into(), port: 19091 }));
        assert_eq!(both.health(), None);
    }

    #[test]
    fn faults() {
        for (text, want) in [
            ("{prometheusMetricsPort: 0}", "prometheusMetricsPort: a whole number from 1 to 65535"),
            ("{prometheusMetricsEnabled: 'yes'}", "prometheusMetricsEnabled: true or false is required"),
            ("{healthHost: 'a b'}", "healthHost: \"a b\" is not an address or a host name"),
        ] {
            let got = spec(text).unwrap_err();
            assert!(got.starts_with(want), "{text}: {got}");
        }
    }
}

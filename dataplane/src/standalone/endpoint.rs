//! An endpoint of the file: `127.0.0.1:8080`, or `{address: 127.0.0.1:8080, zone: a}`.

use std::fmt;
use std::net::SocketAddr;

use proxy_api::v1beta1 as api;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// Either form. Not an untagged enum: those do not say what is wrong.
#[derive(Debug)]
pub(super) struct Endpoint(Whole);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    address: SocketAddr,
    #[serde(default)]
    zone: String,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either).map(Self)
    }
}

struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Whole;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an address with its port, or {address, zone}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Whole, E> {
        let address = text.parse().map_err(|error| E::custom(format_args!("{text:?}: {error}")))?;
        Ok(Whole { address, zone: String::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Whole, A::Error> {
        Whole::deserialize(MapAccessDeserializer::new(map))
    }
}

/// As the stream says it.
pub(super) fn message(Endpoint(Whole { address, zone }): &Endpoint) -> api::Endpoint {
    let (address, port) = (address.ip().to_string(), address.port().into());
    api::Endpoint { address, port, zone: zone.clone(), ..Default::default() }
}

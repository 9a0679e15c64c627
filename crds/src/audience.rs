//! `analysis.match`: who alone sees the canary until it is promoted. Names and meaning are Flagger's, which took them from
//! Istio.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Requests that may see the canary: those for which every header holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(deny_unknown_fields)]
pub struct AudienceMatch {
    /// Name of a header field, such as `cookie`, in any case, and what its value must be. One that is sent in several lines
    /// is one list with commas (cookies: with semicolons).
    #[schemars(extend("minProperties" = 1, "maxProperties" = 8))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[A-Za-z0-9!#$%&*+.^_|~-]{1,256}$'))").message("match[].headers takes names of header fields"))]
    pub headers: BTreeMap<String, StringMatch>,
}

/// What a whole value must be: exactly one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.exact), has(self.prefix), has(self.suffix), has(self.regex)].filter(x, x).size() == 1").message("match[].headers takes exactly one of exact, prefix, suffix and regex for each name"))]
#[x_kube(validation = Rule::new("!has(self.regex) || ''.matches(self.regex) in [true, false]").message("match[].headers: regex must be a valid regular expression"))]
pub struct StringMatch {
    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub exact: Option<String>,
    /// How it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub prefix: Option<String>,
    /// How it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub suffix: Option<String>,
    /// A pattern for all of it, in the syntax of RE2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub regex: Option<String>,
}

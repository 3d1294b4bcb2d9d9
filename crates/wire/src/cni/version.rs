//! Protocol versions and the VERSION answer.

use std::fmt;
use std::str::FromStr;

use serde_json::json;

/// A version of the CNI specification that this product speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl SpecVersion {
    /// All supported versions, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest supported version.
    pub const LATEST: Self = Self::V1_1_0;

    /// The text of the version, as it stands in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A `cniVersion` outside the supported ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cniVersion {0:?} is not supported, only 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are")]
pub struct UnsupportedVersion(pub String);

impl FromStr for SpecVersion {
    type Err = UnsupportedVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|version| version.as_str() == text);
        known.ok_or_else(|| UnsupportedVersion(text.to_owned()))
    }
}

/// The answer to VERSION. It repeats the version of the request, or names the newest one when there was none.
pub fn version_reply(requested: Option<&str>) -> String {
    let versions = SpecVersion::ALL.map(SpecVersion::as_str);
    json!({ "cniVersion": requested.unwrap_or(SpecVersion::LATEST.as_str()), "supportedVersions": versions })
        .to_string()
}

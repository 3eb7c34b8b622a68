//! Records as the JSON files have them. Fields that we don't know stay as they came: a newer
//! peer's survive our rewriting the file.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::table::Half;
use crate::{ContainerId, Digest, ImageId, LayerId};

/// A line of a table.
pub(crate) trait Record: Clone + Serialize + DeserializeOwned {
    /// Unique in the table.
    fn id(&self) -> &str;
    /// Which of the table's files it is in.
    fn half(&self) -> Half;
    /// Sets the file that it was read from.
    fn set_half(&mut self, half: Half);
}

type Flags = Map<String, Value>;
const INCOMPLETE: &str = "incomplete";
/// containers/image's flag of a layer that was pulled by its table of contents.
const EXPECTED_DIFF_ID: &str = "expected-layer-diffid";

/// A layer, in `layers.json` or `volatile-layers.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LayerRecord {
    pub(crate) id: LayerId,
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) names: Vec<String>,
    #[serde(default, with = "or_empty", skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<LayerId>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) metadata: String,
    #[serde(
        default,
        rename = "mountlabel",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) mount_label: String,
    #[serde(default = "go_zero_time")]
    pub(crate) created: String,
    #[serde(
        default,
        rename = "compressed-diff-digest",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) compressed_digest: String,
    #[serde(default, rename = "compressed-size", skip_serializing_if = "is_zero")]
    pub(crate) compressed_size: i64,
    #[serde(
        default,
        rename = "diff-digest",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) diff_digest: String,
    #[serde(default, rename = "diff-size", skip_serializing_if = "is_zero")]
    pub(crate) diff_size: i64,
    /// Of the table of contents of a layer that was pulled by it.
    #[serde(
        default,
        rename = "toc-digest",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) toc_digest: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) compression: i64,
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) uidset: Vec<u32>,
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) gidset: Vec<u32>,
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Map::is_empty"
    )]
    pub(crate) flags: Flags,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
    #[serde(skip)]
    pub(crate) half: Half,
}

impl LayerRecord {
    /// A record without content, marked incomplete.
    pub(crate) fn new(id: LayerId, parent: Option<LayerId>) -> Self {
        let mut record = Self {
            id,
            names: Vec::new(),
            parent,
            metadata: String::new(),
            mount_label: String::new(),
            created: now(),
            compressed_digest: String::new(),
            compressed_size: 0,
            diff_digest: String::new(),
            diff_size: 0,
            toc_digest: String::new(),
            compression: 0,
            uidset: Vec::new(),
            gidset: Vec::new(),
            flags: Map::new(),
            other: Map::new(),
            half: Half::Stable,
        };
        record.mark_incomplete();
        record
    }

    /// Whether its maker or remover died: nobody may use it, whoever has the lock removes it.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.flags.get(INCOMPLETE) == Some(&Value::Bool(true))
    }

    pub(crate) fn mark_incomplete(&mut self) {
        self.flags.insert(INCOMPLETE.into(), true.into());
    }

    pub(crate) fn mark_complete(&mut self) {
        self.flags.remove(INCOMPLETE);
    }

    /// Whether it is a container's.
    pub(crate) fn is_writable(&self) -> bool {
        self.half == Half::Volatile
    }

    /// Says which diff ID an image promises of a layer whose archive nobody has read.
    pub(crate) fn expect_diff_id(&mut self, diff_id: &Digest) {
        self.flags
            .insert(EXPECTED_DIFF_ID.into(), diff_id.as_str().into());
    }

    /// Digest of the table of contents by which it is identified; none if its archive was read.
    pub(crate) fn toc(&self) -> Option<Digest> {
        if !self.diff_digest.is_empty() {
            return None;
        }
        self.toc_digest.parse().ok()
    }

    /// Whether it is usable, and identified by that table of contents, for that diff ID, on `parent`.
    pub(crate) fn is_offered(
        &self,
        toc: &Digest,
        diff_id: &Digest,
        parent: Option<&LayerId>,
    ) -> bool {
        let expected = self.flags.get(EXPECTED_DIFF_ID).and_then(Value::as_str);
        self.toc().as_ref() == Some(toc)
            && expected == Some(diff_id.as_str())
            && self.parent.as_ref() == parent
            && !self.is_incomplete()
            && !self.is_writable()
            && !self.is_mapped()
    }

    /// Keys of its big data.
    pub(crate) fn big_data_names(&self) -> impl Iterator<Item = &str> {
        let names = self.other.get("big-data-names").and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether its files belong to other owners than its archive says.
    pub(crate) fn is_mapped(&self) -> bool {
        let mapped =
            |key| matches!(self.other.get(key), Some(Value::Array(map)) if !map.is_empty());
        mapped("uidmap") || mapped("gidmap")
    }
}

impl Record for LayerRecord {
    fn id(&self) -> &str {
        self.id.as_str()
    }
    fn half(&self) -> Half {
        self.half
    }
    fn set_half(&mut self, half: Half) {
        self.half = half;
    }
}

/// An image, in `images.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: ImageId,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) digest: String,
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) names: Vec<String>,
    #[serde(
        default,
        rename = "names-history",
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) names_history: Vec<String>,
    #[serde(
        default,
        rename = "layer",
        with = "or_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) top_layer: Option<LayerId>,
    #[serde(
        default,
        rename = "mapped-layers",
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) mapped_layers: Vec<LayerId>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) metadata: String,
    #[serde(flatten)]
    pub(crate) big_data: BigData,
    #[serde(default = "go_zero_time")]
    pub(crate) created: String,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl Record for ImageRecord {
    fn id(&self) -> &str {
        self.id.as_str()
    }
    fn half(&self) -> Half {
        Half::Stable
    }
    fn set_half(&mut self, _half: Half) {}
}

/// Items beside a record: their keys, sizes and digests.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct BigData {
    #[serde(
        default,
        rename = "big-data-names",
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) names: Vec<String>,
    #[serde(
        default,
        rename = "big-data-sizes",
        deserialize_with = "or_null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(crate) sizes: BTreeMap<String, i64>,
    #[serde(
        default,
        rename = "big-data-digests",
        deserialize_with = "or_null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(crate) digests: BTreeMap<String, String>,
}

/// A container, in `containers.json` or `volatile-containers.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) names: Vec<String>,
    #[serde(default, with = "or_empty")]
    pub(crate) image: Option<ImageId>,
    #[serde(default, with = "or_empty")]
    pub(crate) layer: Option<LayerId>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) metadata: String,
    #[serde(flatten)]
    pub(crate) big_data: BigData,
    #[serde(default = "go_zero_time")]
    pub(crate) created: String,
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Map::is_empty"
    )]
    pub(crate) flags: Flags,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
    #[serde(skip)]
    pub(crate) half: Half,
}

impl ContainerRecord {
    /// The SELinux label of its mount, empty for none.
    pub(crate) fn mount_label(&self) -> &str {
        self.flags
            .get("MountLabel")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

impl Record for ContainerRecord {
    fn id(&self) -> &str {
        self.id.as_str()
    }
    fn half(&self) -> Half {
        self.half
    }
    fn set_half(&mut self, half: Half) {
        self.half = half;
    }
}

/// The present time as Go writes it: RFC 3339 with nanoseconds.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// A time as Go writes it.
pub(crate) fn time(nanoseconds: i128) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds)
        .unwrap_or_default()
        .to_string()
}

/// Nanoseconds since the epoch of a time that Go wrote; the epoch for one that makes no sense.
pub(crate) fn nanoseconds(time: &str) -> i128 {
    time.parse::<jiff::Timestamp>()
        .unwrap_or_default()
        .as_nanosecond()
}

fn go_zero_time() -> String {
    "0001-01-01T00:00:00Z".into()
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes an absent list or map as `null`.
fn or_null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An ID that Go writes as an empty string where there is none.
mod or_empty {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer, T: Serialize>(
        id: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => id.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<String, Error = crate::Error>,
    {
        let id = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        if id.is_empty() {
            Ok(None)
        } else {
            id.try_into().map(Some).map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_and_times_survive() {
        let json = concat!(
            r#"{"id":"a1","names":null,"layer":"b2","metadata":"{}","big-data-names":["manifest"],"#,
            r#""big-data-sizes":{"manifest":12},"created":"2024-05-06T07:08:09.1+02:00","#,
            r#""flags":{"x":1},"future":[{"deep":null}]}"#
        );
        let image: ImageRecord = serde_json::from_str(json).unwrap();
        assert_eq!(image.big_data.sizes["manifest"], 12);
        assert_eq!(nanoseconds(&image.created), 1_714_972_089_100_000_000);
        let again: Value = serde_json::to_value(&image).unwrap();
        let mut before: Value = serde_json::from_str(json).unwrap();
        before.as_object_mut().unwrap().remove("names");
        assert_eq!(again, before);
    }

    #[test]
    fn a_container_without_image_and_layer_has_empty_ones() {
        let json = r#"{"id":"c","image":"","layer":"","created":"2024-05-06T07:08:09Z"}"#;
        let container: ContainerRecord = serde_json::from_str(json).unwrap();
        assert_eq!((&container.image, &container.layer), (&None, &None));
        assert_eq!(serde_json::to_string(&container).unwrap(), json);
    }

    #[test]
    fn ids_that_leave_the_store_are_refused() {
        for id in ["../../etc", "a/b", "..", ""] {
            let json = format!(r#"{{"id":"{id}","created":"2024-05-06T07:08:09Z"}}"#);
            assert!(serde_json::from_str::<LayerRecord>(&json).is_err(), "{id}");
        }
    }
}

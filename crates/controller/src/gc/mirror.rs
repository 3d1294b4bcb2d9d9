//! What a watch shows, compactly: a view of each object, made at its arrival. Nothing of the object itself is kept.

use std::{collections::HashMap, sync::Arc};

use kube::{ResourceExt, runtime::watcher::Event};

/// Views by `namespace/name`, or by `name`.
#[derive(Debug)]
pub struct Mirror<V> {
    views: HashMap<Arc<str>, V>,
    listed: Option<HashMap<Arc<str>, V>>,
    complete: bool,
}

/// A change of a view.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<V> {
    /// The object.
    pub key: Arc<str>,
    /// The view before, if there was one.
    pub before: Option<V>,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { views: HashMap::new(), listed: None, complete: false }
    }
}

/// The key of an object.
pub fn key(namespace: Option<&str>, name: &str) -> Arc<str> {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}

impl<V: PartialEq> Mirror<V> {
    /// Whether the watch has been read from the start.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The view of an object.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.views.get(key)
    }

    /// All views.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.views.iter()
    }

    /// Number of views.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Takes an event in; returns what has changed. After a gap the whole list is compared, so no deletion is missed.
    pub fn take<K: ResourceExt>(&mut self, event: Event<K>, view: impl Fn(&K) -> V) -> Vec<Change<V>> {
        let key_of = |object: &K| key(object.namespace().as_deref(), &object.name_any());
        match event {
            Event::Apply(object) => self.put(key_of(&object), view(&object)).into_iter().collect(),
            Event::Delete(object) => {
                let key = key_of(&object);
                let before = self.views.remove(&key);
                before.map(|before| Change { key, before: Some(before) }).into_iter().collect()
            }
            Event::Init => {
                self.listed = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listed.get_or_insert_default().insert(key_of(&object), view(&object));
                Vec::new()
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<_> = self.views.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
                let gone = gone.into_iter().map(|key| Change { before: self.views.remove(&key), key });
                let mut changes: Vec<_> = gone.collect();
                changes.extend(listed.into_iter().filter_map(|(key, view)| self.put(key, view)));
                self.complete = true;
                changes
            }
        }
    }

    fn put(&mut self, key: Arc<str>, view: V) -> Option<Change<V>> {
        if self.views.get(&key) == Some(&view) {
            return None;
        }
        let before = self.views.insert(Arc::clone(&key), view);
        Some(Change { key, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn map(name: &str, value: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        (map.metadata.namespace, map.metadata.name) = (Some("ns".into()), Some(name.into()));
        map.data = Some([("v".to_owned(), value.to_owned())].into());
        map
    }

    fn take(mirror: &mut Mirror<String>, events: Vec<Event<ConfigMap>>) -> Vec<(String, Option<String>)> {
        let view = |map: &ConfigMap| map.data.clone().unwrap_or_default()["v"].clone();
        let changes = events.into_iter().flat_map(|event| mirror.take(event, view));
        let mut changes: Vec<_> = changes.map(|change| (change.key.to_string(), change.before)).collect();
        changes.sort();
        changes
    }

    fn change(name: &str, before: Option<&str>) -> (String, Option<String>) {
        (format!("ns/{name}"), before.map(str::to_owned))
    }

    /// Mend G7: upstream's leader panics here.
    #[test]
    fn a_deletion_that_the_watch_missed_is_seen_after_the_gap() {
        let mut mirror = Mirror::default();
        take(&mut mirror, vec![Init, InitApply(map("a", "1")), InitApply(map("b", "1")), InitDone]);
        assert!(mirror.is_complete());
        let changes = take(&mut mirror, vec![Init, InitApply(map("b", "2")), InitDone]);
        assert_eq!(changes, [change("a", Some("1")), change("b", Some("1"))]);
        assert_eq!((mirror.get("ns/a"), mirror.get("ns/b").map(String::as_str)), (None, Some("2")));
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut mirror = Mirror::default();
        assert_eq!(take(&mut mirror, vec![Init, InitApply(map("a", "1")), InitDone]), [change("a", None)]);
        assert_eq!(take(&mut mirror, vec![Init, InitApply(map("b", "1")), Init]), []);
        assert_eq!(mirror.len(), 1);
    }

    #[test]
    fn a_change_that_no_view_shows_is_none() {
        let mut mirror = Mirror::default();
        assert_eq!(take(&mut mirror, vec![Apply(map("a", "1"))]), [change("a", None)]);
        assert_eq!(take(&mut mirror, vec![Apply(map("a", "1"))]), []);
        assert_eq!(take(&mut mirror, vec![Delete(map("a", "1"))]), [change("a", Some("1"))]);
        assert_eq!(take(&mut mirror, vec![Delete(map("a", "1"))]), []);
    }
}

//! What is remembered of each Canary between passes. Losing it costs a repeated read or Event, never a decision.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crds::Canary;
use kube::ResourceExt;

use crate::evidence::Evidence;

/// Everything that is remembered, by uid of the Canary.
#[derive(Default)]
pub(super) struct Memories {
    by_uid: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of one Canary: the newest of each kind, so it does not grow with time.
#[derive(Default)]
pub(super) struct Memory {
    /// The object as it was last written: the cache may lag behind our own write.
    pub(super) written: Option<Arc<Canary>>,
    pub(super) failures: u32,
    pub(super) trouble: Option<(Instant, Option<String>)>,
    /// What is warned of now.
    warned: BTreeSet<String>,
    pub(super) restored: Option<Instant>,
    pub(super) cleared: bool,
    pub(super) evidence: Evidence,
    pub(super) told_trouble: Option<String>,
    pub(super) told_verdict: Option<&'static str>,
}

impl Memories {
    pub(super) fn of(&self, canary: &Canary) -> MemoryGuard<'_> {
        let uid = canary.uid().unwrap_or_default();
        let mut guard = self.lock();
        guard.entry(uid.clone()).or_default();
        MemoryGuard { guard, uid }
    }

    pub(super) fn forget(&self, canary: &Canary) {
        self.lock().remove(&canary.uid().unwrap_or_default());
    }

    /// Forgets every Canary that is not among `living`: the end of a pass remembers one that has just been let go.
    pub(super) fn keep(&self, living: &[Arc<Canary>]) {
        let living: HashSet<&str> = living.iter().filter_map(|canary| canary.metadata.uid.as_deref()).collect();
        self.lock().retain(|uid, _| living.contains(uid.as_str()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Takes note of everything that is warned of now; what of it was not warned of until now.
    pub(super) fn warn(&mut self, warnings: Vec<String>) -> Vec<String> {
        let before = std::mem::replace(&mut self.warned, warnings.into_iter().collect());
        self.warned.difference(&before).cloned().collect()
    }
}

pub(super) struct MemoryGuard<'a> {
    guard: MutexGuard<'a, HashMap<String, Memory>>,
    uid: String,
}

impl std::ops::Deref for MemoryGuard<'_> {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        self.guard.get(&self.uid).expect("entry is made with the guard")
    }
}

impl std::ops::DerefMut for MemoryGuard<'_> {
    fn deref_mut(&mut self) -> &mut Memory {
        self.guard.get_mut(&self.uid).expect("entry is made with the guard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_canary(uid: &str) -> Arc<Canary> {
        let spec =
            serde_json::json!({ "targetRef": { "kind": "Deployment", "name": "web" }, "service": { "port": 80 } });
        let mut canary = Canary::new("web", serde_json::from_value(spec).unwrap());
        canary.metadata.uid = Some(uid.to_owned());
        Arc::new(canary)
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_warning_is_new_once_until_it_is_no_longer_so() {
        let mut memory = Memory::default();
        assert_eq!(memory.warn(strings(&["affinity", "tls"])), strings(&["affinity", "tls"]));
        assert!(memory.warn(strings(&["tls", "affinity"])).is_empty());
        assert!(memory.warn(strings(&["tls"])).is_empty());
        assert_eq!(memory.warn(strings(&["tls", "affinity"])), strings(&["affinity"]));
    }

    #[test]
    fn only_what_is_warned_of_now_is_remembered() {
        let mut memory = Memory::default();
        for port in 0..1_000 {
            memory.warn(vec![format!("port {port} is encrypted")]);
        }
        assert_eq!(memory.warned.into_iter().collect::<Vec<_>>(), ["port 999 is encrypted"]);
    }

    #[test]
    fn a_canary_that_is_gone_is_forgotten_though_its_last_pass_ends_later() {
        let memories = Memories::default();
        let (old, new) = (mk_canary("u1"), mk_canary("u2"));
        for canary in [&old, &new] {
            memories.of(canary).failures = 3;
        }
        memories.forget(&old);
        // The pass that has let it go succeeds.
        memories.of(&old).failures = 0;
        memories.keep(&[Arc::clone(&new)]);
        assert_eq!(memories.lock().keys().collect::<Vec<_>>(), ["u2"]);
        assert_eq!(memories.of(&new).failures, 3, "what is there is not forgotten");
    }
}

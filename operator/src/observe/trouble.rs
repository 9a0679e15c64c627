//! What keeps pods from becoming available, in words for people.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What keeps pods from becoming available, in the words of the kubelet or the scheduler: the commonest of them.
#[must_use]
pub fn trouble(pods: &[Pod]) -> Option<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods {
        if let Some(trouble) = pod_trouble(pod) {
            *counts.entry(trouble).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(trouble, _)| trouble)
}

fn pod_trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    for container in containers {
        let name = &container.name;
        let state = container.state.as_ref();
        if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
            let reason = waiting.reason.as_deref().unwrap_or("waiting");
            if !matches!(reason, "ContainerCreating" | "PodInitializing") {
                return Some(format!("container {name}: {reason}{}", last_exit(container)));
            }
        }
        if let Some(ended) = state.and_then(|state| state.terminated.as_ref()).filter(|ended| ended.exit_code != 0) {
            return Some(format!("container {name} exited with code {}", ended.exit_code));
        }
        if !container.ready && state.is_some_and(|state| state.running.is_some()) {
            // It may have been started again a moment ago, and be about to end again.
            return Some(format!("container {name} runs but is not ready{}", last_exit(container)));
        }
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(format!("cannot be scheduled: {}", unscheduled.message.as_deref().unwrap_or("no reason given")))
}

/// How it ended last, if it did.
fn last_exit(container: &ContainerStatus) -> String {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.map(|ended| format!(" (last exit code {})", ended.exit_code)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> Pod {
        serde_json::from_value(json!({"status": {"containerStatuses": [container]}})).unwrap()
    }

    fn web(state: Value, last: Value) -> Pod {
        pod(json!({
            "name": "web", "ready": false, "restartCount": 1, "image": "web", "imageID": "", "state": state, "lastState": last,
        }))
    }

    #[test]
    fn what_is_wrong_with_a_container_is_said_in_each_of_its_states() {
        let ended = json!({"terminated": {"exitCode": 3}});
        let running = json!({"running": {}});
        for (state, last, said) in [
            (json!({"waiting": {"reason": "ImagePullBackOff"}}), json!({}), Some("container web: ImagePullBackOff")),
            (
                json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                ended.clone(),
                Some("container web: CrashLoopBackOff (last exit code 3)"),
            ),
            (json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), None),
            (ended.clone(), json!({}), Some("container web exited with code 3")),
            (json!({"terminated": {"exitCode": 0}}), json!({}), None),
            (running.clone(), json!({}), Some("container web runs but is not ready")),
            (running, ended, Some("container web runs but is not ready (last exit code 3)")),
        ] {
            assert_eq!(pod_trouble(&web(state, last)).as_deref(), said);
        }
    }

    #[test]
    fn the_commonest_trouble_is_said() {
        let ready = pod(json!({"name": "web", "ready": true, "restartCount": 0, "image": "web", "imageID": ""}));
        let [exited, unready] =
            [json!({"terminated": {"exitCode": 1}}), json!({"running": {}})].map(|state| web(state, json!({})));
        assert_eq!(trouble(std::slice::from_ref(&ready)), None);
        let said = trouble(&[exited, unready.clone(), ready, unready]);
        assert_eq!(said.as_deref(), Some("container web runs but is not ready"));
    }

    #[test]
    fn a_pod_without_a_node_says_what_the_scheduler_says() {
        let mut pod = Pod::default();
        let conditions = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"},
        ]});
        pod.status = Some(serde_json::from_value(conditions).unwrap());
        assert_eq!(pod_trouble(&pod).as_deref(), Some("cannot be scheduled: 0/3 nodes are available"));
    }
}

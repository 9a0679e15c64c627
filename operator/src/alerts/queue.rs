//! The bounded queue behind the outbox: one lane per provider, oldest message first, oldest dropped when full.
//!
//! No I/O, no clock. A lane is handed to one deliverer at a time, so that a provider gets its messages in order.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{Message, MessageId};

/// Messages that may wait for one provider: a day of a busy team, and minutes of a receiver that is away.
pub(super) const LANE_MAX: usize = 50;
/// Messages that may wait in all.
pub(super) const QUEUE_MAX: usize = 2_000;
/// Messages that are remembered, so that offering them again does not send them again.
const SEEN_MAX: usize = 20_000;

/// A provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) namespace: String,
    pub(super) provider: String,
}

/// A message on its way to one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    /// `alerts[].name`
    pub(super) alert: String,
    /// When it happened: it may be sent much later.
    pub(super) at: DateTime<Utc>,
}

/// What became of a message that was pushed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Queued,
    /// It was pushed before.
    Known,
    /// Queued, and this one fell out for it.
    Displaced(Lane, Delivery),
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: HashMap<Lane, Waiting>,
    /// Lanes with messages that nobody delivers at present, in the order of their turns.
    ready: VecDeque<Lane>,
    len: usize,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    /// Handed out and not yet given back.
    busy: bool,
}

#[derive(Debug, Default)]
struct Seen {
    set: HashSet<(Lane, MessageId)>,
    order: VecDeque<(Lane, MessageId)>,
}

impl Queue {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, lane: Lane, delivery: Delivery) -> Pushed {
        if !self.seen.insert((lane.clone(), delivery.message.id.clone())) {
            return Pushed::Known;
        }
        let waiting = self.lanes.entry(lane.clone()).or_default();
        if waiting.deliveries.is_empty() && !waiting.busy {
            self.ready.push_back(lane.clone());
        }
        waiting.deliveries.push_back(delivery);
        self.len += 1;
        let displaced = if waiting.deliveries.len() > LANE_MAX {
            waiting.deliveries.pop_front().map(|oldest| (lane, oldest))
        } else if self.len > QUEUE_MAX {
            self.pop_longest()
        } else {
            None
        };
        match displaced {
            Some((lane, oldest)) => {
                self.len -= 1;
                Pushed::Displaced(lane, oldest)
            }
            None => Pushed::Queued,
        }
    }

    /// The oldest message of the longest lane: who floods the queue pays for it.
    fn pop_longest(&mut self) -> Option<(Lane, Delivery)> {
        let (lane, waiting) = self.lanes.iter_mut().max_by_key(|(_, waiting)| waiting.deliveries.len())?;
        let oldest = waiting.deliveries.pop_front()?;
        Some((lane.clone(), oldest))
    }

    /// The next message to deliver. Its lane is held back until [`Queue::done`].
    pub(super) fn take(&mut self) -> Option<(Lane, Delivery)> {
        while let Some(lane) = self.ready.pop_front() {
            let Some(waiting) = self.lanes.get_mut(&lane) else { continue };
            if let Some(delivery) = waiting.deliveries.pop_front() {
                waiting.busy = true;
                self.len -= 1;
                return Some((lane, delivery));
            }
            self.lanes.remove(&lane);
        }
        None
    }

    /// The message of this lane was delivered or given up.
    pub(super) fn done(&mut self, lane: Lane) {
        let Some(waiting) = self.lanes.get_mut(&lane) else { return };
        waiting.busy = false;
        if waiting.deliveries.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.ready.push_back(lane);
        }
    }
}

impl Seen {
    /// Whether it is new.
    fn insert(&mut self, id: (Lane, MessageId)) -> bool {
        if !self.set.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::mk_message, *};

    fn mk_lane(provider: &str) -> Lane {
        Lane { namespace: "shop".to_owned(), provider: provider.to_owned() }
    }

    fn mk_delivery(counter: i64) -> Delivery {
        Delivery { message: Arc::new(mk_message(counter)), alert: "a".to_owned(), at: DateTime::UNIX_EPOCH }
    }

    fn counter(taken: Option<(Lane, Delivery)>) -> Option<(String, i64)> {
        taken.map(|(lane, delivery)| (lane.provider, delivery.message.id.counter))
    }

    #[test]
    fn a_lane_is_delivered_in_order_and_one_at_a_time() {
        let mut queue = Queue::default();
        for (provider, number) in [("a", 1), ("a", 2), ("b", 3)] {
            assert_eq!(queue.push(mk_lane(provider), mk_delivery(number)), Pushed::Queued);
        }
        assert_eq!(counter(queue.take()), Some(("a".to_owned(), 1)));
        assert_eq!(counter(queue.take()), Some(("b".to_owned(), 3)), "a is under way");
        assert_eq!(counter(queue.take()), None);
        queue.done(mk_lane("a"));
        assert_eq!(counter(queue.take()), Some(("a".to_owned(), 2)));
        queue.done(mk_lane("a"));
        queue.done(mk_lane("b"));
        assert_eq!((counter(queue.take()), queue.len(), queue.lanes.len()), (None, 0, 0));
    }

    #[test]
    fn what_was_pushed_before_is_not_queued_again() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(mk_lane("a"), mk_delivery(1)), Pushed::Queued);
        assert!(queue.take().is_some());
        queue.done(mk_lane("a"));
        assert_eq!(queue.push(mk_lane("a"), mk_delivery(1)), Pushed::Known);
        assert_eq!(queue.push(mk_lane("b"), mk_delivery(1)), Pushed::Queued, "another provider has not got it");
        assert_eq!(queue.push(mk_lane("a"), mk_delivery(2)), Pushed::Queued);
    }

    #[test]
    fn a_full_lane_drops_its_oldest() {
        let mut queue = Queue::default();
        for number in 0..LANE_MAX as i64 {
            assert_eq!(queue.push(mk_lane("a"), mk_delivery(number)), Pushed::Queued);
        }
        let pushed = queue.push(mk_lane("a"), mk_delivery(99));
        assert!(matches!(&pushed, Pushed::Displaced(_, oldest) if oldest.message.id.counter == 0), "{pushed:?}");
        assert_eq!(queue.len(), LANE_MAX);
        assert_eq!(counter(queue.take()), Some(("a".to_owned(), 1)));
    }

    #[test]
    fn a_full_queue_drops_from_the_longest_lane() {
        let mut queue = Queue::default();
        for number in 0..LANE_MAX as i64 {
            queue.push(mk_lane("loud"), mk_delivery(number));
        }
        for number in 0..(QUEUE_MAX - LANE_MAX) {
            queue.push(mk_lane(&format!("quiet-{number}")), mk_delivery(1));
        }
        assert_eq!(queue.len(), QUEUE_MAX);
        let pushed = queue.push(mk_lane("late"), mk_delivery(1));
        assert!(matches!(&pushed, Pushed::Displaced(lane, _) if lane.provider == "loud"), "{pushed:?}");
        assert_eq!(queue.len(), QUEUE_MAX);
    }

    #[test]
    fn memory_of_what_was_sent_is_bounded() {
        let mut queue = Queue::default();
        for number in 0..(SEEN_MAX as i64 + 10) {
            queue.push(mk_lane("a"), mk_delivery(number));
            queue.take();
            queue.done(mk_lane("a"));
        }
        assert_eq!((queue.seen.set.len(), queue.seen.order.len()), (SEEN_MAX, SEEN_MAX));
    }
}

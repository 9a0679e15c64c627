//! The rules one by one, then several replicas against a model of the API server that loses and delays everything.

use proptest::prelude::*;

use super::*;

fn mk_record(holder: &str, version: u64) -> Record {
    Record { holder: holder.to_owned(), version: version.to_string(), transitions: 3 }
}

fn mk_standby(now: Instant) -> Election {
    let mut election = Election::new("me".to_owned(), Timing::default());
    election.observe(Event::Seen(mk_record("other", 1)), now);
    election
}

fn mk_leader(now: Instant) -> Election {
    let mut election = Election::new("me".to_owned(), Timing::default());
    election.observe(Event::Wrote(mk_record("me", 1), now), now);
    election
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn the_first_replica_creates_the_lease_and_leads() {
    let now = Instant::now();
    let mut election = Election::new("me".to_owned(), Timing::default());
    assert_eq!(election.next(now), Step::Read);
    election.observe(Event::Absent, now);
    assert_eq!(election.next(now), Step::Create);
    election.observe(Event::Wrote(mk_record("me", 1), now), now);
    assert!(election.leads());
    assert_eq!(election.next(now), Step::Wait(now + seconds(7)));
}

#[test]
fn a_standby_takes_over_only_after_a_whole_duration_without_a_change() {
    let start = Instant::now();
    let mut election = mk_standby(start);
    assert_eq!(election.next(start + seconds(19)), Step::Wait(start + seconds(20)));
    election.observe(Event::Seen(mk_record("other", 2)), start + seconds(19));
    assert_eq!(election.next(start + seconds(38)), Step::Wait(start + seconds(39)));
    // The same record again is no sign of life.
    election.observe(Event::Seen(mk_record("other", 2)), start + seconds(38));
    let write = Step::Write { version: "2".to_owned(), transitions: 4, takes_over: true };
    assert_eq!(election.next(start + seconds(39)), write);
}

#[test]
fn a_process_that_crashed_in_the_same_pod_is_not_waited_for() {
    let now = Instant::now();
    let holder_of = |holder: &str| {
        let mut election = Election::new("operator-a_2".to_owned(), Timing::default());
        election.observe(Event::Seen(mk_record(holder, 1)), now);
        election.next(now)
    };
    assert!(matches!(holder_of("operator-a_1"), Step::Write { takes_over: true, .. }));
    for other in ["operator-b_1", "operator-a-x_1", "operator-a"] {
        assert_eq!(holder_of(other), Step::Wait(now + seconds(20)), "{other}");
    }
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let now = Instant::now();
    let mut election = mk_standby(now);
    election.observe(Event::Seen(mk_record("", 2)), now + seconds(1));
    assert!(matches!(election.next(now + seconds(1)), Step::Write { takes_over: true, .. }));
}

#[test]
fn a_takeover_that_came_second_waits_again() {
    let start = Instant::now();
    let mut election = mk_standby(start);
    election.observe(Event::Conflict, start + seconds(20));
    assert_eq!(election.next(start + seconds(20)), Step::Read);
    election.observe(Event::Seen(mk_record("third", 2)), start + seconds(20));
    assert_eq!(election.next(start + seconds(20)), Step::Wait(start + seconds(40)));
    assert!(!election.leads());
}

#[test]
fn a_leader_that_cannot_renew_stops_before_anyone_takes_over() {
    let start = Instant::now();
    let mut election = mk_leader(start);
    let timing = Timing::default();
    let mut now = start + timing.renew_every;
    assert!(matches!(election.next(now), Step::Write { takes_over: false, .. }));
    while election.next(now) != Step::Lost {
        assert!(now + election.call_limit(now) <= start + timing.renew_deadline, "a call outlasts the deadline");
        if let Step::Wait(until) = election.next(now) {
            now = until;
        } else {
            now += election.call_limit(now);
            election.observe(Event::Failed, now);
        }
    }
    assert!(now <= start + timing.renew_deadline);
    assert!(timing.renew_deadline < timing.duration);
}

#[test]
fn a_renewal_whose_answer_was_lost_is_not_a_loss() {
    let start = Instant::now();
    let mut election = mk_leader(start);
    election.observe(Event::Failed, start + seconds(8));
    assert_eq!(election.next(start + seconds(10)), Step::Read);
    election.observe(Event::Seen(mk_record("me", 2)), start + seconds(10));
    let write = Step::Write { version: "2".to_owned(), transitions: 3, takes_over: false };
    assert_eq!(election.next(start + seconds(10)), write);
}

#[test]
fn a_leader_that_sees_another_holder_has_lost() {
    let start = Instant::now();
    let mut election = mk_leader(start);
    election.observe(Event::Conflict, start + seconds(7));
    assert_eq!(election.next(start + seconds(7)), Step::Read);
    election.observe(Event::Seen(mk_record("other", 9)), start + seconds(7));
    assert_eq!(election.next(start + seconds(7)), Step::Lost);
}

#[test]
fn a_leader_makes_a_deleted_lease_anew() {
    let start = Instant::now();
    let mut election = mk_leader(start);
    election.observe(Event::Absent, start + seconds(7));
    assert_eq!(election.next(start + seconds(7)), Step::Create);
}

/// One lease; a write is carried out only over the version it names.
#[derive(Default)]
struct Server {
    lease: Option<Record>,
    version: u64,
}

impl Server {
    fn carry_out(&mut self, identity: &str, step: &Step, sent: Instant) -> Event {
        let transitions = match (step, &self.lease) {
            (Step::Read, None) | (Step::Write { .. }, None) => return Event::Absent,
            (Step::Read, Some(lease)) => return Event::Seen(lease.clone()),
            (Step::Create, Some(_)) => return Event::Conflict,
            (Step::Create, None) => 0,
            (Step::Write { version, .. }, Some(lease)) if *version != lease.version => return Event::Conflict,
            (Step::Write { transitions, .. }, Some(_)) => *transitions,
            (Step::Wait(_) | Step::Lost, _) => panic!("no call"),
        };
        self.version += 1;
        let lease = Record { holder: identity.to_owned(), version: self.version.to_string(), transitions };
        self.lease = Some(lease.clone());
        Event::Wrote(lease, sent)
    }
}

struct Replica {
    election: Election,
    identity: String,
    call: Option<Call>,
    is_dead: bool,
}

/// A call under way: carried out at one time, answered at another, either of which may never come.
struct Call {
    step: Step,
    sent: Instant,
    carried_out: Option<Instant>,
    answered: Option<Instant>,
    given_up: Instant,
    event: Option<Event>,
}

/// What happens to one call: half seconds until it is carried out and, after that, answered; 10 and more: never.
type Fate = (u8, u8);

struct World {
    now: Instant,
    server: Server,
    replicas: Vec<Replica>,
    /// Calls whose caller no longer waits, and which may be carried out all the same.
    strays: Vec<(usize, Call)>,
}

impl World {
    fn new(replicas: usize) -> Self {
        let mk_replica = |number| Replica {
            election: Election::new(format!("replica-{number}"), Timing::default()),
            identity: format!("replica-{number}"),
            call: None,
            is_dead: false,
        };
        let replicas = (0..replicas).map(mk_replica).collect();
        Self { now: Instant::now(), server: Server::default(), replicas, strays: Vec::new() }
    }

    /// Half a second passes. Returns who may act as leader.
    fn tick(&mut self, mut fate: impl FnMut() -> Fate, is_watched: bool) -> Vec<usize> {
        self.now += Duration::from_millis(500);
        let now = self.now;
        for (number, call) in &mut self.strays {
            call.advance(now, &mut self.server, &self.replicas[*number].identity);
        }
        self.strays.retain(|(_, call)| call.event.is_none() && call.carried_out.is_some());
        for (number, replica) in self.replicas.iter_mut().enumerate().filter(|(_, replica)| !replica.is_dead) {
            if let Some(call) = &mut replica.call {
                call.advance(now, &mut self.server, &replica.identity);
                if call.answered.is_some_and(|at| at <= now) && call.event.is_some() {
                    let call = replica.call.take().expect("it was there");
                    replica.election.observe(call.event.expect("it was answered"), now);
                } else if now >= call.given_up {
                    let call = replica.call.take().expect("it was there");
                    replica.election.observe(Event::Failed, now);
                    self.strays.push((number, call));
                }
            } else {
                let lease = self.server.lease.clone().filter(|_| is_watched && !replica.election.leads());
                lease.into_iter().for_each(|lease| replica.election.observe(Event::Seen(lease), now));
            }
            if replica.call.is_none() {
                match replica.election.next(now) {
                    Step::Lost => replica.is_dead = true,
                    Step::Wait(_) => {}
                    step => replica.call = Some(Call::new(step, now, replica.election.call_limit(now), fate())),
                }
            }
        }
        let may_act = |replica: &Replica| {
            !replica.is_dead && replica.election.leads() && replica.election.next(now) != Step::Lost
        };
        (0..self.replicas.len()).filter(|number| may_act(&self.replicas[*number])).collect()
    }
}

impl Call {
    fn new(step: Step, now: Instant, limit: Duration, (delay, answer): Fate) -> Self {
        let after = |halves: u8| now + Duration::from_millis(500) * u32::from(halves);
        let carried_out = (delay < 10).then(|| after(delay));
        let answered = carried_out.filter(|_| answer < 10).map(|_| after(delay + answer));
        Self { step, sent: now, carried_out, answered, given_up: now + limit, event: None }
    }

    fn advance(&mut self, now: Instant, server: &mut Server, identity: &str) {
        if self.event.is_none() && self.carried_out.is_some_and(|at| at <= now) {
            self.event = Some(server.carry_out(identity, &self.step, self.sent));
        }
    }
}

proptest! {
    /// Clocks run alike here; the margin between deadline and duration is what differing ones may use.
    #[test]
    fn at_no_time_two_replicas_may_act_as_leader(
        fates in prop::collection::vec((0_u8..14, 0_u8..14), 1..200),
        watched in prop::collection::vec(any::<bool>(), 400),
        replicas in 2_usize..4,
    ) {
        let mut world = World::new(replicas);
        let mut fates = fates.into_iter().cycle();
        for is_watched in watched {
            let leaders = world.tick(|| fates.next().expect("it goes round"), is_watched);
            prop_assert!(leaders.len() <= 1, "{leaders:?} lead");
        }
    }

    /// With an API server that answers, somebody leads; after the leader died, within 21 s somebody else.
    #[test]
    fn a_dead_leader_is_replaced(lived in 5_usize..60) {
        let mut world = World::new(2);
        let leader = (0..lived).filter_map(|_| world.tick(|| (0, 1), true).first().copied()).last();
        let leader = leader.expect("nobody leads in a world without faults");
        world.replicas[leader].is_dead = true;
        let followed = (0..42).any(|_| !world.tick(|| (0, 1), true).is_empty());
        prop_assert!(followed);
    }
}

//! The rules, step by step, and two candidates on one Lease under lost answers, pauses and dead processes.

use super::*;

const TIMING: Timing = Timing {
    duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
    retry_gap: Duration::from_secs(1),
};

fn at(seconds: u64) -> Moment {
    Moment::from_secs(seconds)
}

fn wall(seconds: u64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds as i64).unwrap()
}

fn stored(version: u64, record: Record) -> Stored {
    Stored { version: Version { uid: "u".to_owned(), resource_version: version.to_string() }, record }
}

fn of(holder: &str, renewed: u64) -> Record {
    Record {
        holder: Some(holder.to_owned()),
        duration: Some(TIMING.duration),
        acquired: Some(wall(0)),
        renewed: Some(wall(renewed)),
        transitions: 3,
    }
}

fn write(step: Step) -> (Option<Version>, Record) {
    match step {
        Step::Write(version, record) => (version, record),
        other => panic!("{other:?} is no write"),
    }
}

/// A candidate that leads since `at(0)`, and its record.
fn leader() -> (Election, Record) {
    let mut me = Election::new("me", TIMING);
    me.read(None, at(0));
    let (based_on, record) = write(me.next(at(0), wall(0)));
    assert_eq!(based_on, None);
    me.written(Outcome::Stored(stored(1, record.clone())), at(1));
    (me, record)
}

#[test]
fn the_first_creates_the_lease_and_leads_from_the_start_of_the_write() {
    let (me, record) = leader();
    assert_eq!(me.leads_until(), Some(at(10)), "not at(11): the answer took a second");
    assert_eq!((record.holder.as_deref(), record.transitions, me.holder()), (Some("me"), 0, Some("me")));
}

#[test]
fn a_renewal_keeps_the_time_of_taking_and_extends_the_term() {
    let (mut me, first) = leader();
    assert_eq!(me.next(at(1), wall(1)), Step::Wait(at(2)));
    let (version, record) = write(me.next(at(2), wall(2)));
    assert_eq!(version.unwrap().resource_version, "1");
    assert_eq!((record.acquired, record.renewed, record.transitions), (first.acquired, Some(wall(2)), 0));
    me.written(Outcome::Stored(stored(2, record)), at(3));
    assert_eq!(me.leads_until(), Some(at(12)));
}

#[test]
fn a_standby_waits_until_a_record_has_not_changed_for_its_duration() {
    let mut me = Election::new("me", TIMING);
    for second in [0, 2, 4] {
        assert_eq!(me.next(at(second), wall(second)), Step::Read);
        me.read(Some(stored(second, of("other", second))), at(second));
        assert_eq!(me.next(at(second), wall(second)), Step::Wait(at(second + 2)));
    }
    // Silence since 4: it may be taken at 19. Reading goes on, and so does a version that says the same.
    for second in [6, 8, 10, 12, 14, 16, 18] {
        assert_eq!(me.next(at(second), wall(second)), Step::Read);
        me.read(Some(stored(100 + second, of("other", 4))), at(second));
        assert!(matches!(me.next(at(second), wall(second)), Step::Wait(_)), "at {second}");
    }
    assert_eq!(me.next(at(19), wall(19)), Step::Read, "what is taken was read just before");
    me.read(Some(stored(118, of("other", 4))), at(19));
    let (version, record) = write(me.next(at(19), wall(19)));
    assert_eq!(version.unwrap().resource_version, "118");
    assert_eq!((record.holder.as_deref(), record.transitions, record.acquired), (Some("me"), 4, Some(wall(19))));
}

#[test]
fn clocks_need_not_agree() {
    let mut me = Election::new("me", TIMING);
    me.read(Some(stored(1, Record { renewed: Some(Timestamp::UNIX_EPOCH), ..of("other", 0) })), at(100));
    assert!(matches!(me.next(at(100), wall(100)), Step::Wait(_)), "a renewal in the past is no proof of death");
}

#[test]
fn a_free_lease_is_taken_at_once() {
    for holder in [None, Some(String::new())] {
        let mut me = Election::new("me", TIMING);
        me.read(Some(stored(7, Record { holder, ..of("", 0) })), at(50));
        assert_eq!(write(me.next(at(50), wall(50))).0.unwrap().resource_version, "7");
    }
}

#[test]
fn a_predecessor_of_the_same_name_is_somebody_else() {
    let mut me = Election::new("me", TIMING);
    me.read(Some(stored(1, of("me", 0))), at(0));
    assert!(matches!(me.next(at(0), wall(0)), Step::Wait(_)));
}

#[test]
fn a_longer_duration_of_the_holder_is_respected() {
    let mut me = Election::new("me", TIMING);
    let record = Record { duration: Some(Duration::from_secs(60)), ..of("other", 0) };
    me.read(Some(stored(1, record.clone())), at(0));
    let _ = me.next(at(0), wall(0));
    me.read(Some(stored(1, record)), at(59));
    assert!(matches!(me.next(at(59), wall(59)), Step::Wait(_)));
}

#[test]
fn a_leader_without_answers_stops_at_the_deadline() {
    let (mut me, _) = leader();
    let mut now = 2;
    while now < 10 {
        match me.next(at(now), wall(now)) {
            Step::Write(..) => me.written(Outcome::Unknown, at(now)),
            Step::Read => me.unread(at(now)),
            Step::Wait(until) => now = until.as_secs(),
        }
    }
    assert_eq!(me.leads_until(), Some(at(10)), "until the deadline is looked at");
    assert_eq!(me.next(at(10), wall(10)), Step::Wait(at(11)), "the retry gap");
    assert_eq!(me.leads_until(), None);
    assert_eq!(me.next(at(11), wall(11)), Step::Read);
}

#[test]
fn a_paused_leader_is_none_when_it_goes_on() {
    let (mut me, _) = leader();
    assert!(matches!(me.next(at(500), wall(500)), Step::Wait(_)));
    assert_eq!(me.leads_until(), None);
}

#[test]
fn a_renewal_without_answer_that_was_stored_counts_from_its_start() {
    let (mut me, _) = leader();
    let (_, record) = write(me.next(at(2), wall(2)));
    me.written(Outcome::Unknown, at(7));
    assert_eq!(me.next(at(9), wall(9)), Step::Read);
    me.read(Some(stored(2, record)), at(9));
    assert_eq!(me.leads_until(), Some(at(12)));
}

#[test]
fn somebody_elses_record_ends_the_term_at_once_and_a_label_does_not() {
    let (mut me, record) = leader();
    let _ = me.next(at(2), wall(2));
    me.written(Outcome::Conflict, at(2));
    assert_eq!(me.next(at(2), wall(2)), Step::Read);
    me.read(Some(stored(5, record)), at(2));
    assert_eq!(me.leads_until(), Some(at(10)));
    assert_eq!(write(me.next(at(2), wall(2))).0.unwrap().resource_version, "5");
    me.written(Outcome::Conflict, at(3));
    me.read(Some(stored(6, of("other", 3))), at(3));
    assert_eq!((me.leads_until(), me.holder()), (None, Some("other")));
}

#[test]
fn a_deleted_lease_ends_the_term() {
    let (mut me, _) = leader();
    let _ = me.next(at(2), wall(2));
    me.written(Outcome::Conflict, at(2));
    me.read(None, at(2));
    assert_eq!(me.leads_until(), None);
}

#[test]
fn only_a_leader_gives_back() {
    let (me, record) = leader();
    let (version, free) = me.release(wall(5)).unwrap();
    assert_eq!((version.resource_version.as_str(), free.holder, free.acquired), ("1", None, record.acquired));
    assert_eq!(Election::new("me", TIMING).release(wall(0)), None);
}

#[test]
fn a_lease_whose_renewal_was_under_way_is_still_given_back() {
    let (mut me, _) = leader();
    let (_, record) = write(me.next(at(2), wall(2))); // stored, and the answer never seen
    assert_eq!(me.release(wall(3)).unwrap().0.resource_version, "1", "which conflicts");
    me.read(Some(stored(2, record)), at(3));
    assert_eq!(me.release(wall(3)).unwrap().0.resource_version, "2");
    me.read(Some(stored(3, of("other", 3))), at(3));
    assert_eq!(me.release(wall(3)), None);
}

/// Numbers without meaning, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The API server: one Lease with optimistic locking.
#[derive(Default)]
struct Server {
    lease: Option<Stored>,
    version: u64,
}

impl Server {
    fn write(&mut self, based_on: Option<&Version>, record: Record) -> Outcome {
        if self.lease.as_ref().map(|lease| &lease.version) != based_on {
            return Outcome::Conflict;
        }
        self.version += 1;
        let lease = stored(self.version, record);
        self.lease = Some(lease.clone());
        Outcome::Stored(lease)
    }
}

#[test]
fn there_are_never_two_leaders_and_there_is_one_again_and_again() {
    const TICK: Duration = Duration::from_millis(250);
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut server = Server::default();
        let mut candidates = [Election::new("a", TIMING), Election::new("b", TIMING), Election::new("c", TIMING)];
        let mut paused = [Moment::ZERO; 3];
        // Writes that arrive later, whatever the sender believes by then.
        let mut late: Vec<(Moment, Option<Version>, Record)> = Vec::new();
        let (mut terms, mut last) = (0, None);
        let mut now = Moment::ZERO;
        while now < at(600) {
            now += TICK;
            let (due, rest) = late.into_iter().partition(|(when, ..)| *when <= now);
            late = rest;
            for (_, version, record) in Vec::from_iter::<Vec<_>>(due) {
                let _ = server.write(version.as_ref(), record);
            }
            for (index, candidate) in candidates.iter_mut().enumerate() {
                if dice.below(400) == 0 {
                    paused[index] = now + at(dice.below(40));
                }
                if now < paused[index] {
                    continue;
                }
                match candidate.next(now, wall(now.as_secs())) {
                    Step::Wait(_) => {}
                    Step::Read if dice.below(5) == 0 => candidate.unread(now),
                    Step::Read => candidate.read(server.lease.clone(), now),
                    Step::Write(version, record) => match dice.below(8) {
                        0 => candidate.written(Outcome::Unknown, now),
                        1 => {
                            let _ = server.write(version.as_ref(), record);
                            candidate.written(Outcome::Unknown, now);
                        }
                        2 => {
                            late.push((now + at(dice.below(20)), version, record));
                            candidate.written(Outcome::Unknown, now);
                        }
                        _ => {
                            let outcome = server.write(version.as_ref(), record);
                            candidate.written(outcome, now);
                        }
                    },
                }
            }
            let leading = |candidate: &&Election| candidate.leads_until().is_some_and(|until| now < until);
            let leaders: Vec<_> = candidates.iter().filter(leading).map(|candidate| candidate.me.clone()).collect();
            assert!(leaders.len() <= 1, "seed {seed}, {now:?}: {leaders:?}");
            if let Some(leader) = leaders.first()
                && last.as_ref() != Some(leader)
            {
                terms += 1;
                last = Some(leader.clone());
            }
        }
        assert!(terms >= 1, "seed {seed}: nobody ever led");
    }
}

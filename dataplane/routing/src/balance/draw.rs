//! Draws among the endpoints of one arm: one at random, the better of two, the next of a round. `excluded` is what must not
//! be taken (tried before, ejected); `admit` may refuse a draw, for an endpoint that is to get less than its share, and is
//! asked with fresh random bits each time. Where `admit` refuses all, it is not asked any more: somebody must serve.

use std::cell::Cell;

use crate::split::mix;

/// Draws before the rest is searched in order: with half of the endpoints excluded or refused, 1 request in 256 gets there.
const DRAWS: u32 = 8;

/// Any endpoint, each as likely as the others.
pub fn any(
    count: usize,
    mut random: u64,
    excluded: impl Fn(usize) -> bool,
    admit: impl Fn(usize, u64) -> bool,
) -> Option<usize> {
    if count < 2 {
        return (count == 1 && !excluded(0)).then_some(0);
    }
    for _ in 0..DRAWS {
        let drawn = index(random, count);
        if !excluded(drawn) && admit(drawn, mix(!random)) {
            return Some(drawn);
        }
        random = mix(random);
    }
    let start = index(random, count);
    (0..count).map(|step| (start + step) % count).find(|endpoint| !excluded(*endpoint))
}

/// The less loaded of two different ones that are drawn at random; of two equals the first.
pub fn better_of_two(
    count: usize,
    random: u64,
    excluded: impl Fn(usize) -> bool,
    admit: impl Fn(usize, u64) -> bool,
    load: impl Fn(usize) -> f64,
) -> Option<usize> {
    let first = any(count, random, &excluded, &admit)?;
    if count < 2 {
        return Some(first);
    }
    // Among the others: numbered without the first.
    let whole = |other: usize| other + usize::from(other >= first);
    let random = random.rotate_left(32);
    let Some(second) = any(count - 1, random, |other| excluded(whole(other)), |_, _| true).map(whole) else {
        return Some(first);
    };
    Some(if load(second) < load(first) && admit(second, mix(random)) { second } else { first })
}

/// Where a round is; begins anywhere, so that workers and proxies do not go in step.
#[derive(Debug, Default)]
pub struct Round(Cell<Option<usize>>);

impl Round {
    /// The next one. Whoever is passed over loses its turn, and its neighbour gains none.
    pub fn next(
        &self,
        count: usize,
        random: u64,
        excluded: impl Fn(usize) -> bool,
        admit: impl Fn(usize, u64) -> bool,
    ) -> Option<usize> {
        if count == 0 {
            return None;
        }
        let start = self.0.get().unwrap_or(index(random, count));
        let turn = |step: usize| (start + step) % count;
        let passes = DRAWS as usize * count;
        let admitted =
            (0..passes).find(|step| !excluded(turn(*step)) && admit(turn(*step), mix(random ^ *step as u64)));
        let step = admitted.or_else(|| (0..count).find(|step| !excluded(turn(*step))))?;
        self.0.set(Some(turn(step + 1)));
        Some(turn(step))
    }
}

fn index(random: u64, count: usize) -> usize {
    (random as u32) as usize % count
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: fn(usize, u64) -> bool = |_, _| true;

    fn counts<const N: usize>(draws: u64, draw: impl Fn(u64) -> Option<usize>) -> [u32; N] {
        let mut counts = [0; N];
        for seed in 0..draws {
            counts[draw(mix(seed)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_less_loaded_of_two_is_picked() {
        for seed in 0..50 {
            assert_eq!(better_of_two(2, mix(seed), |_| false, ALL, |i| [5.0, 1.0][i]), Some(1));
        }
    }

    #[test]
    fn an_excluded_endpoint_is_never_picked() {
        let round = Round::default();
        for seed in (0..50).map(mix) {
            assert_eq!(better_of_two(3, seed, |i| i != 2, ALL, |_| 0.0), Some(2));
            assert_eq!(better_of_two(3, seed, |_| true, ALL, |_| 0.0), None);
            assert_eq!(any(3, seed, |i| i != 2, ALL), Some(2));
            assert_eq!(any(3, seed, |_| true, ALL), None);
            assert_eq!(any(1, seed, |_| true, ALL), None);
            assert_eq!(round.next(3, seed, |i| i != 2, ALL), Some(2));
            assert_eq!(round.next(3, seed, |_| true, ALL), None);
        }
        assert_eq!(any(0, 1, |_| false, ALL), None);
        assert_eq!(better_of_two(0, 1, |_| false, ALL, |_| 0.0), None);
        assert_eq!(round.next(0, 1, |_| false, ALL), None);
    }

    #[test]
    fn who_is_excluded_leaves_its_share_to_all_others() {
        let two = counts::<5>(40_000, |random| better_of_two(5, random, |i| i == 2, ALL, |_| 1.0));
        let one = counts::<5>(40_000, |random| any(5, random, |i| i == 2, ALL));
        let round = Round::default();
        let turns = counts::<5>(40_000, |random| round.next(5, random, |i| i == 2, ALL));
        assert_eq!(turns, [10_000, 10_000, 0, 10_000, 10_000]);
        for counts in [two, one] {
            assert_eq!(counts[2], 0);
            assert!([0, 1, 3, 4].iter().all(|i| counts[*i].abs_diff(10_000) < 500), "{counts:?}");
        }
    }

    #[test]
    fn the_most_loaded_of_four_is_never_picked_and_the_others_by_their_rank() {
        // Of the six pairs, the best wins three, the next two, the third one.
        let ranked = counts::<4>(60_000, |random| better_of_two(4, random, |_| false, ALL, |i| i as f64));
        let wanted = [30_000_u32, 20_000, 10_000, 0];
        assert!(ranked.iter().zip(wanted).all(|(count, wanted)| count.abs_diff(wanted) < 900), "{ranked:?}");
        assert_eq!(ranked[3], 0);
    }

    #[test]
    fn who_is_admitted_to_a_fifth_gets_a_fifth_of_a_share() {
        // Three whole shares and a fifth of one: 9,375 and 625 per ten thousand.
        let admit = |endpoint: usize, random: u64| endpoint != 1 || random.is_multiple_of(5);
        let round = Round::default();
        let two = counts::<4>(32_000, |random| better_of_two(4, random, |_| false, admit, |_| 1.0));
        let one = counts::<4>(32_000, |random| any(4, random, |_| false, admit));
        let turns = counts::<4>(32_000, |random| round.next(4, random, |_| false, admit));
        for counts in [two, one, turns] {
            assert!((1_800..2_200).contains(&counts[1]), "{counts:?}");
            assert!([0, 2, 3].iter().all(|i| counts[*i].abs_diff(10_000) < 500), "{counts:?}");
        }
    }

    #[test]
    fn where_nobody_is_admitted_all_serve() {
        let nobody = |_: usize, _: u64| false;
        let round = Round::default();
        let counts = [
            counts::<3>(9_000, |random| better_of_two(3, random, |_| false, nobody, |_| 1.0)),
            counts::<3>(9_000, |random| any(3, random, |_| false, nobody)),
            counts::<3>(9_000, |random| round.next(3, random, |_| false, nobody)),
        ];
        for counts in counts {
            assert!(counts.iter().all(|count| count.abs_diff(3_000) < 300), "{counts:?}");
        }
    }

    #[test]
    fn rounds_begin_at_different_places() {
        let first = counts::<4>(400, |random| Round::default().next(4, random, |_| false, ALL));
        assert!(first.iter().all(|count| *count > 50), "{first:?}");
    }
}

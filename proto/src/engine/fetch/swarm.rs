//! Who of several fetchers gets which piece from a source that has everything, so that it need not send it to each.
//!
//! Where many fetch one content at once, what its first sources can send is what is scarce: they have to send each piece
//! once, and the fetchers give it to each other. So each piece belongs to one of the fetchers, without a word between
//! them: each knows the names of the others, weighs every piece for every name, and the heaviest has it (rendezvous
//! hashing, Thaler and Ravishankar 1996). Who comes or goes changes the owner of few pieces.
//!
//! A *whole* source is asked for what is this fetcher's own and nobody has, what weighs most first. Where all of that is
//! asked for, the others are helped with theirs from the other end, one piece after the other, up to what they are getting
//! just now: so nobody who is slow is waited for, and hardly anything is sent twice. What a fellow has is asked from the
//! fellow, unless it has much else to give first.

use std::time::Duration;

use crate::geometry::{PIECE_CHUNKS, PieceIndex};
use crate::time::Time;

use super::source::{Holding, Source};
use super::{FetchEngine, SourceId};

impl FetchEngine {
    /// The name that this fetch goes by among all that fetch the same content; see
    /// [`Input::SourceFetches`](super::Input::SourceFetches).
    pub fn call_me(&mut self, name: u64) {
        self.name = Some(name);
    }

    pub(super) fn source_fetches(&mut self, id: SourceId, name: u64) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.fellow = Some(Fellow::new(name, self.now));
        }
    }

    /// Whether what this source can send is to be spared for what nobody else has: where no more sources have everything
    /// than there are fellows, since of more there is enough for everybody, and where fellows together give about as fast as
    /// this source does: one that is slower must not hold anybody down to its own speed.
    pub(super) fn is_spared(&self, id: SourceId) -> bool {
        let is_whole = |source: &Source| matches!(source.holding, Holding::Whole);
        let Some(source) = self.sources.get(&id).filter(|source| self.name.is_some() && is_whole(source))
        else {
            return false;
        };
        let fellows = self.sources.values().filter(|source| source.fellow.is_some());
        let (mut count, mut rate) = (0, 0.0);
        for fellow in fellows {
            count += 1;
            rate += if fellow.is_responsive() { fellow.pace.rate() } else { 0.0 };
        }
        let whole = self.sources.values().filter(|source| is_whole(source)).count();
        count > 0 && whole <= count && rate >= source.pace.rate() * SPARING_SHARE
    }

    /// Whether a fellow will soon give the piece.
    pub(super) fn comes_from_fellow(&self, piece: PieceIndex) -> bool {
        // Who did not deliver it the last time is not asked for it as long as there is somebody else.
        let shunned = self.active.get(&piece).and_then(|active| active.shunned).map(|(source, _)| source);
        self.sources.iter().any(|(&id, source)| {
            source.fellow.is_some()
                && shunned != Some(id)
                && source.is_responsive()
                && !source.is_busy(self.now)
                && source.has(piece)
                && source.seconds_left() < SOON_SECONDS
        })
    }

    /// The next fresh piece for a source that is spared: of those that are ours and nobody has the one that is most
    /// ours. If it has hardly anything to do for us, also one of a fellow, from the end of that one's order; then what
    /// will not come from them soon.
    pub(super) fn choose_spared(&mut self, id: SourceId) -> Option<PieceIndex> {
        let (name, source) = (self.name?, self.sources.get(&id)?);
        let is_idle = source.outstanding == 0 || source.seconds_left() < IDLE_SECONDS;
        // Two of our own in a row take so long.
        let seconds = f64::from(2 * PIECE_CHUNKS) / source.pace.rate();
        let patience = Duration::from_secs_f64(seconds.min(PATIENCE_MAX_SECONDS)).max(PATIENCE_MIN);
        let mut fellows: Vec<Other> = self.fellows(patience).collect();
        let (mut own, mut elsewhere): (Option<(u64, PieceIndex)>, _) = (None, None);
        let mut place = self.fresh.next_around(source.cursor)?;
        let mut looks = 0;
        while looks < self.fresh.count().min(LOOKS_MAX) && (looks < LOOKS_MIN || own.is_none()) {
            looks += 1;
            let number = self.order.piece_at(place);
            let piece = self.geometry.piece(number)?;
            place = self.fresh.next_around((place + 1) % self.geometry.piece_count())?;
            if self.availability.get(number as usize).is_some_and(|&count| count > 0) {
                if is_idle && elsewhere.is_none() && !self.comes_from_fellow(piece) {
                    elsewhere = Some(piece);
                }
                continue;
            }
            let ours = weight(name, number);
            let weights = fellows.iter_mut().map(|fellow| (weight(fellow.name, number), fellow));
            match weights.max_by_key(|(weight, _)| *weight).filter(|(weight, _)| *weight > ours) {
                Some((weight, owner)) => owner.left(weight, piece),
                None if own.is_none_or(|(most, _)| ours > most) => own = Some((ours, piece)),
                None => {}
            }
        }
        if let Some((_, piece)) = own {
            return Some(piece);
        }
        self.move_cursor(id, place);
        // Who has most left needs help most. What it is asking for just now it has sooner than we would.
        let seen = f64::from(looks) / f64::from(self.fresh.count());
        let behind = fellows.iter().filter(|fellow| f64::from(fellow.left) > fellow.ahead * seen);
        let of_others = behind.max_by_key(|fellow| fellow.left).and_then(|fellow| fellow.last);
        let chosen = of_others.map(|(_, piece)| piece).or(elsewhere).filter(|_| is_idle);
        self.holds_back |= chosen.is_none();
        chosen
    }

    /// Those among whom pieces are divided; one that got nothing for longer than `patience` is not waited for.
    fn fellows(&self, patience: Duration) -> impl Iterator<Item = Other> {
        let responsive = self.sources.values().filter(|source| source.is_responsive());
        responsive.filter_map(|source| source.fellow.as_ref()).map(move |fellow| Other {
            name: fellow.name,
            ahead: fellow.ahead(self.now, patience),
            left: 0,
            last: None,
        })
    }

    fn move_cursor(&mut self, id: SourceId, place: u32) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.cursor = place;
        }
    }
}

/// What is known of a source that fetches the same.
#[derive(Debug)]
pub(super) struct Fellow {
    name: u64,
    since: Time,
    /// How many pieces it told of that nobody had told of before, and when last: it has them from a source with
    /// everything.
    first_hand: u32,
    first_hand_at: Time,
}

impl Fellow {
    fn new(name: u64, now: Time) -> Self {
        Fellow { name, since: now, first_hand: 0, first_hand_at: now }
    }

    /// It has told of so many pieces that nobody had.
    pub(super) fn has_first(&mut self, now: Time, pieces: u32) {
        if pieces > 0 {
            self.first_hand += pieces;
            self.first_hand_at = now;
        }
    }

    /// How many pieces it will probably have before we would, if we asked for them now. None if it does not go on.
    fn ahead(&self, now: Time, patience: Duration) -> f64 {
        if now.since(self.first_hand_at) > patience {
            return 0.0;
        }
        let seconds = now.since(self.since).as_secs_f64().max(AHEAD_SECONDS);
        f64::from(self.first_hand) / seconds * AHEAD_SECONDS + 1.0
    }
}

/// A fellow while a piece is chosen.
struct Other {
    name: u64,
    ahead: f64,
    /// How many of its pieces were seen that nobody has, and the one that it will ask for last.
    left: u32,
    last: Option<(u64, PieceIndex)>,
}

impl Other {
    fn left(&mut self, weight: u64, piece: PieceIndex) {
        self.left += 1;
        if self.last.is_none_or(|(least, _)| weight < least) {
            self.last = Some((weight, piece));
        }
    }
}

/// What a piece weighs for a name: the finisher of SplitMix64 over both.
fn weight(name: u64, piece: u32) -> u64 {
    let mut mixed = name ^ (u64::from(piece) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How many fresh pieces are looked at for one choice, and how many at most as long as none of them is ours.
const LOOKS_MIN: u32 = 256;
const LOOKS_MAX: u32 = 1024;

/// A source has hardly anything to do if it is done with what it was asked for in less than this.
const IDLE_SECONDS: f64 = 0.05;

/// What a fellow will give within this comes soon. On a busy machine even who gives at once takes its time.
pub(super) const SOON_SECONDS: f64 = 1.0;

/// Fellows that give less than this share of what a source gives do not make up for it.
const SPARING_SHARE: f64 = 0.5;

/// What a fellow gets within this is under way to it already, or will be before our asking is answered.
const AHEAD_SECONDS: f64 = 0.5;

/// Bounds of how long a fellow may take for a piece before it is not waited for.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
const PATIENCE_MAX_SECONDS: f64 = 4.0;

/// When to look again whether what was to come from others has come.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_belong_to_all_names_evenly() {
        let mut counts = [0u32; 8];
        for piece in 0..8000 {
            let heaviest = (0..8u64).max_by_key(|&name| weight(name * 77 + 5, piece)).unwrap();
            counts[heaviest as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}

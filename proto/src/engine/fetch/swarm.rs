//! Who of several fetchers gets which piece from a source that has everything, so that it need not send it to each.
//!
//! Where many fetch one content at once, what its first sources can send is what is scarce: they have to send each piece
//! once, and the fetchers give it to each other. So each piece belongs to one of the fetchers, without a word between
//! them: each knows the names of the others, weighs every piece for every name, and the heaviest has it (rendezvous
//! hashing, Thaler and Ravishankar 1996). Who comes or goes changes the owner of few pieces.
//!
//! A *whole* source is asked for what is this fetcher's own and nobody has; then for what belongs to others, but not for
//! what is about to come from them: they have it already, or have so little left to get that they will have it soon. What
//! is *soon* is measured in the time that the whole source itself would need. One that has stopped getting anything is
//! not waited for. Only a choice is made here; whatever a fellow does, nothing is held back for ever.

use std::time::Duration;

use crate::geometry::{PIECE_CHUNKS, PieceIndex};
use crate::time::Time;

use super::source::{Holding, Source};
use super::{FetchEngine, SourceId};

/// A source that is fetching the content itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fellow {
    name: u64,
    /// Seconds from one piece that it was the first to have to the next; `None` until it has been measured.
    gap: Option<f64>,
    /// When it last had such a piece, or came.
    news_at: Time,
    /// It has told what it had when it came.
    told: bool,
}

impl Fellow {
    pub(super) fn new(name: u64, now: Time) -> Self {
        Fellow { name, gap: None, news_at: now, told: false }
    }

    /// It has pieces, of which these many were new to us.
    pub(super) fn has_more(&mut self, now: Time, new: u32) {
        // What it had before it was met says nothing about how fast it is.
        if std::mem::replace(&mut self.told, true) && new > 0 {
            let sample = now.since(self.news_at).as_secs_f64() / f64::from(new);
            self.gap = Some(self.gap.map_or(sample, |gap| gap + (sample - gap) / 4.0));
        }
        if new > 0 {
            self.news_at = now;
        }
    }

    /// Whether it will have `left` more pieces within `patience` seconds, as far as can be told.
    fn is_soon_done(&self, now: Time, left: u32, patience: f64) -> bool {
        let gap = self.gap.unwrap_or(patience / f64::from(LEFT_SOON));
        let silence = now.since(self.news_at).as_secs_f64();
        silence < SILENT_GAPS * gap + SILENT_SECONDS && f64::from(left) * gap < patience
    }

    fn weight(&self, piece: u32) -> u64 {
        weight(self.name, piece)
    }
}

/// What a whole source may be asked for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// This piece.
    Piece(PieceIndex),
    /// Nothing for now: what is left will soon come from others.
    Later,
    /// It has nothing that is missing.
    Nothing,
}

impl FetchEngine {
    /// The name that this fetch goes by among all that fetch the same content; see
    /// [`Input::SourceFetches`](super::Input::SourceFetches).
    pub fn call_me(&mut self, name: u64) {
        self.name = Some(name);
    }

    pub(super) fn source_fetches(&mut self, id: SourceId, name: u64) {
        let now = self.now;
        if let Some(source) = self.sources.get_mut(&id) {
            source.fellow = Some(Fellow::new(name, now));
        }
    }

    /// Whether what this source can send is to be spared for what nobody else has: where no more sources have everything
    /// than there are fellows. Of more there is enough for everybody.
    pub(super) fn is_spared(&self, id: SourceId) -> bool {
        let is_whole = |source: &Source| matches!(source.holding, Holding::Whole);
        if self.name.is_none() || !self.sources.get(&id).is_some_and(is_whole) {
            return false;
        }
        let fellows = self.sources.values().filter(|source| source.fellow.is_some()).count();
        fellows > 0 && self.sources.values().filter(|source| is_whole(source)).count() <= fellows
    }

    /// Whether a fellow will give the piece before the sources that are spared would.
    pub(super) fn comes_from_fellow(&self, piece: PieceIndex) -> bool {
        let patience = self.patience();
        // Who did not deliver it the last time is not asked for it as long as there is somebody else.
        let shunned = self.active.get(&piece).and_then(|active| active.shunned).map(|(source, _)| source);
        self.sources.iter().any(|(&id, source)| {
            source.fellow.is_some()
                && shunned != Some(id)
                && source.is_responsive()
                && !source.is_busy(self.now)
                && source.has(piece)
                && source.seconds_left() < patience
        })
    }

    /// The next fresh piece for a source that is spared: one that nobody has and that is ours; else one of others that
    /// they will not have soon, rather one where we come right behind them.
    pub(super) fn choose_spared(&mut self, id: SourceId) -> Choice {
        let (Some(name), Some(source)) = (self.name, self.sources.get(&id)) else { return Choice::Nothing };
        let Some(mut place) = self.fresh.next_around(source.cursor) else { return Choice::Nothing };
        let responsive = self.sources.values().filter(|source| source.is_responsive());
        let mut owners: Vec<Owner> =
            responsive.filter_map(|source| Some(Owner::new(source.fellow?))).collect();
        let mut elsewhere = None;
        let looks = self.fresh.count().min(LOOKS_MAX);
        for _ in 0..looks {
            let number = self.order.piece_at(place);
            if self.availability.get(number as usize).is_some_and(|&count| count > 0) {
                elsewhere = elsewhere.or(Some(number));
            } else {
                let own = weight(name, number);
                let before = owners.iter().filter(|owner| owner.fellow.weight(number) > own).count();
                match owners.iter_mut().max_by_key(|owner| owner.fellow.weight(number)) {
                    Some(owner) if before > 0 => owner.add(before, number),
                    _ => {
                        self.move_cursor(id, place);
                        return self.chosen(number);
                    }
                }
            }
            place = self.fresh.next_around((place + 1) % self.geometry.piece_count()).unwrap_or(place);
        }
        self.move_cursor(id, place);
        let (patience, knows_all) = (self.patience(), looks == self.fresh.count());
        // Of those that others will not have soon, or may have many more of than were looked at.
        let late =
            owners.iter().filter(|it| !knows_all || !it.fellow.is_soon_done(self.now, it.left, patience));
        if let Some((_, number)) = late.filter_map(|owner| owner.best).min() {
            return self.chosen(number);
        }
        match elsewhere.and_then(|number| self.geometry.piece(number)) {
            Some(piece) if !self.comes_from_fellow(piece) => Choice::Piece(piece),
            _ => Choice::Later,
        }
    }

    fn move_cursor(&mut self, id: SourceId, place: u32) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.cursor = place;
        }
    }

    fn chosen(&self, number: u32) -> Choice {
        self.geometry.piece(number).map_or(Choice::Nothing, Choice::Piece)
    }

    /// Seconds that it is worth to wait for fellows: in which all sources that are spared would give so many pieces.
    pub(super) fn patience(&self) -> f64 {
        let whole = self.sources.values().filter(|source| matches!(source.holding, Holding::Whole));
        let rate: f64 = whole.map(|source| source.pace.rate()).sum();
        (f64::from(LEFT_SOON) * f64::from(PIECE_CHUNKS) / rate.max(1.0)).min(PATIENCE_SECONDS_MAX)
    }
}

/// A fellow, and the pieces among those that were looked at that nobody has and that belong to it.
struct Owner {
    fellow: Fellow,
    left: u32,
    /// How many fellows come before us for the piece where we come soonest, and that piece.
    best: Option<(usize, u32)>,
}

impl Owner {
    fn new(fellow: Fellow) -> Self {
        Owner { fellow, left: 0, best: None }
    }

    fn add(&mut self, before: usize, number: u32) {
        self.left += 1;
        if self.best.is_none_or(|(least, _)| before < least) {
            self.best = Some((before, number));
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

/// Most fresh pieces that are looked at for one choice.
const LOOKS_MAX: u32 = 128;

/// So many pieces, at the pace of the spared source, are soon there: about what a fellow that is as fast as we are has
/// asked for, and has not yet told.
const LEFT_SOON: u32 = 8;

/// Fellows are not waited for longer than this, however slow the source was when it was last asked for something.
const PATIENCE_SECONDS_MAX: f64 = 0.3;

/// A fellow has stopped when it had nothing new for so many of its gaps and so many seconds.
const SILENT_GAPS: f64 = 4.0;
const SILENT_SECONDS: f64 = 0.3;

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

    #[test]
    fn a_fellow_is_waited_for_as_long_as_it_goes_on() {
        let mut now = Time::ZERO;
        let mut fellow = Fellow::new(1, now);
        fellow.has_more(now, 100);
        for _ in 0..20 {
            now += Duration::from_millis(100);
            fellow.has_more(now, 1);
        }
        assert!(fellow.is_soon_done(now, 3, 0.5), "three pieces take it 0.3 s");
        assert!(!fellow.is_soon_done(now, 8, 0.5), "eight take it 0.8 s");
        assert!(!fellow.is_soon_done(now + Duration::from_secs(1), 1, 0.5), "it has stopped");
    }
}

//! Who of several fetchers gets which piece from a source that has everything, so that it need not send it to each.
//!
//! Where many fetch one content at once, what its first sources can send is what is scarce: they have to send each piece
//! once, and the fetchers give it to each other. So each piece belongs to one of the fetchers, without a word between
//! them: each knows the names of the others, weighs every piece for every name, and the heaviest has it (rendezvous
//! hashing, Thaler and Ravishankar 1996). Who comes or goes changes the owner of few pieces.
//!
//! A *whole* source is asked for what is this fetcher's own and nobody has. Where that is asked for, it is kept at work
//! with what belongs to others, one piece after the other, so that nobody who is slow or dead is waited for. What a
//! fellow has is asked from the fellow, unless it has much else to give first.

use std::time::Duration;

use crate::geometry::PieceIndex;

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
            source.fellow = Some(name);
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

    /// The next fresh piece for a source that is spared: one that is ours and nobody has. If it has hardly anything to do
    /// for us, also one of others, rather one where we come right behind them; then what will not come from them soon.
    pub(super) fn choose_spared(&mut self, id: SourceId) -> Option<PieceIndex> {
        let (name, source) = (self.name?, self.sources.get(&id)?);
        let mut place = self.fresh.next_around(source.cursor)?;
        let is_idle = source.outstanding == 0 || source.seconds_left() < IDLE_SECONDS;
        let responsive = self.sources.values().filter(|source| source.is_responsive());
        let fellows: Vec<u64> = responsive.filter_map(|source| source.fellow).collect();
        let (mut of_others, mut elsewhere): (Option<(usize, PieceIndex)>, _) = (None, None);
        for _ in 0..self.fresh.count().min(LOOKS_MAX) {
            let number = self.order.piece_at(place);
            let piece = self.geometry.piece(number)?;
            if self.availability.get(number as usize).is_some_and(|&count| count > 0) {
                if is_idle && elsewhere.is_none() && !self.comes_from_fellow(piece) {
                    elsewhere = Some(piece);
                }
            } else {
                let own = weight(name, number);
                let before = fellows.iter().filter(|&&fellow| weight(fellow, number) > own).count();
                if before == 0 {
                    self.move_cursor(id, place);
                    return Some(piece);
                }
                if of_others.is_none_or(|(least, _)| before < least) {
                    of_others = Some((before, piece));
                }
            }
            place = self.fresh.next_around((place + 1) % self.geometry.piece_count())?;
        }
        self.move_cursor(id, place);
        let chosen = of_others.map(|(_, piece)| piece).or(elsewhere).filter(|_| is_idle);
        self.holds_back |= chosen.is_none();
        chosen
    }

    fn move_cursor(&mut self, id: SourceId, place: u32) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.cursor = place;
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

/// A source has hardly anything to do if it is done with what it was asked for in less than this.
const IDLE_SECONDS: f64 = 0.05;

/// What a fellow will give within this comes soon.
pub(super) const SOON_SECONDS: f64 = 0.3;

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

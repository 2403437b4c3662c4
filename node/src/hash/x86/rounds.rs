//! The rounds of SHA-256 over vectors that hold the same word of every lane.
//!
//! Macros, so that all of it becomes one straight function of the instructions that its caller may use. They expect its
//! operations in scope: `add`, `splat`, `choose`, `majority`, `big_sigma_0`, `big_sigma_1`, `small_sigma_0`,
//! `small_sigma_1` (names as in FIPS 180-4).

/// One block: the state after it from the state before it, and its 16 words.
macro_rules! compress_words {
    ($before:expr, $words:expr) => {{
        let before = $before;
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = before;
        let mut w = $words;
        let ([first, others @ ..], []) = K.as_chunks::<16>() else { unreachable!("64 is 4 times 16") };
        rounds::sixteen_rounds!(keep, first, w, a, b, c, d, e, f, g, h);
        for constants in others {
            rounds::sixteen_rounds!(expand, constants, w, a, b, c, d, e, f, g, h);
        }
        let [a0, b0, c0, d0, e0, f0, g0, h0] = before;
        [add(a, a0), add(b, b0), add(c, c0), add(d, d0), add(e, e0), add(f, f0), add(g, g0), add(h, h0)]
    }};
}

/// Sixteen rounds, after which every variable is again what its name says.
macro_rules! sixteen_rounds {
    ($how:ident, $k:ident, $w:ident,
     $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
        rounds::eight_rounds!($how, $k, $w, 0 1 2 3 4 5 6 7, $a, $b, $c, $d, $e, $f, $g, $h);
        rounds::eight_rounds!($how, $k, $w, 8 9 10 11 12 13 14 15, $a, $b, $c, $d, $e, $f, $g, $h);
    };
}

/// Eight rounds. Instead of moving each variable to the next, each round calls them by the names of the next.
macro_rules! eight_rounds {
    ($how:ident, $k:ident, $w:ident,
     $i0:literal $i1:literal $i2:literal $i3:literal $i4:literal $i5:literal $i6:literal $i7:literal,
     $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
        rounds::round!($how, $k, $w, $i0, $a, $b, $c, $d, $e, $f, $g, $h);
        rounds::round!($how, $k, $w, $i1, $h, $a, $b, $c, $d, $e, $f, $g);
        rounds::round!($how, $k, $w, $i2, $g, $h, $a, $b, $c, $d, $e, $f);
        rounds::round!($how, $k, $w, $i3, $f, $g, $h, $a, $b, $c, $d, $e);
        rounds::round!($how, $k, $w, $i4, $e, $f, $g, $h, $a, $b, $c, $d);
        rounds::round!($how, $k, $w, $i5, $d, $e, $f, $g, $h, $a, $b, $c);
        rounds::round!($how, $k, $w, $i6, $c, $d, $e, $f, $g, $h, $a, $b);
        rounds::round!($how, $k, $w, $i7, $b, $c, $d, $e, $f, $g, $h, $a);
    };
}

/// One round with one word, which `expand` first replaces by the word 16 places further on.
macro_rules! round {
    (expand, $k:ident, $w:ident, $i:literal, $($state:ident),*) => {
        $w[$i] = add(
            add($w[$i], $w[($i + 9) % 16]),
            add(small_sigma_0($w[($i + 1) % 16]), small_sigma_1($w[($i + 14) % 16])),
        );
        rounds::round!(keep, $k, $w, $i, $($state),*);
    };
    (keep, $k:ident, $w:ident, $i:literal,
     $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
        let taken_in = add($h, add($w[$i], splat($k[$i])));
        let first = add(taken_in, add(big_sigma_1($e), choose($e, $f, $g)));
        $d = add($d, first);
        $h = add(first, add(big_sigma_0($a), majority($a, $b, $c)));
    };
}

pub(super) use {compress_words, eight_rounds, round, sixteen_rounds};

//! What fuzz targets try of the client of STEP.

use std::collections::BTreeSet;

use ftx_proto::interop::step::upload::{ConnectionId, UploadPlan, UploadStep};

use super::journal::left_in;

/// Any bytes as the journal of an upload: whatever they claim is missing, blocks that there are are sent, each once.
pub fn journal(data: &[u8]) {
    let Some(left) = left_in(data, None) else { return };
    let total = left.plan.total_block();
    let mut upload = UploadPlan::resume(left.plan, left.missing.clone());
    let mut sent = BTreeSet::new();
    for number in 0..300 {
        let UploadStep::Send(block) = upload.next(ConnectionId(number)) else { return };
        assert!(block.index() < total && sent.insert(block.index()));
        assert!(left.missing.iter().any(|range| range.contains(&block.index())));
    }
}

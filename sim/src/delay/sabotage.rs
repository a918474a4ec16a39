//! Ways to break a promise of the delay server on purpose, to see that the simulator notices.

/// A switch that breaks one promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DelaySabotage {
    /// Everything as it should be.
    #[default]
    None,
    /// The store says that it synced and did not.
    SkipSync,
    /// Messages leave before it is written down that they do.
    SendBeforeBegin,
    /// What is begun is not written.
    BeginNotDurable,
    /// Messages leave that the store did not begin.
    SendWhatIsNotBegun,
    /// Confirmations are not written.
    ForgetConfirmation,
    /// Refusals are not written.
    ForgetRefusal,
    /// Cancellations are answered and not written.
    ForgetCancel,
    /// A tick fires a millisecond early.
    FireEarly,
    /// A time-out counts as delivered: the reference does so after its empty retry.
    TrustSilence,
    /// After a time-out a message goes to another group.
    LeaveUnknown,
    /// What is accepted for the time that is loaded already is not told to the scheduler: the
    /// reference does so in its preload race.
    ForgetAccepted,
    /// What found no room in memory is never read again.
    ForgetLeft,
    /// After a start nobody looks what was begun.
    ForgetBegun,
}

impl DelaySabotage {
    /// All switches that break something.
    pub const ALL: [Self; 13] = [
        Self::SkipSync,
        Self::SendBeforeBegin,
        Self::BeginNotDurable,
        Self::SendWhatIsNotBegun,
        Self::ForgetConfirmation,
        Self::ForgetRefusal,
        Self::ForgetCancel,
        Self::FireEarly,
        Self::TrustSilence,
        Self::LeaveUnknown,
        Self::ForgetAccepted,
        Self::ForgetLeft,
        Self::ForgetBegun,
    ];

    /// The switch of the store, when it is the store that is to break the promise.
    pub(super) fn of_the_store(self) -> qmq_store::DelaySabotage {
        match self {
            Self::SkipSync => qmq_store::DelaySabotage::SkipSync,
            Self::BeginNotDurable => qmq_store::DelaySabotage::BeginNotDurable,
            Self::ForgetConfirmation => qmq_store::DelaySabotage::ForgetConfirmation,
            Self::ForgetCancel => qmq_store::DelaySabotage::ForgetCancel,
            _ => qmq_store::DelaySabotage::None,
        }
    }
}

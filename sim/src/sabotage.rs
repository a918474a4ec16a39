//! Ways to break a promise on purpose, to see that the simulator notices.

/// A switch that breaks one promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Everything as it should be.
    #[default]
    None,
    /// The store says that it synced and did not.
    SkipSync,
    /// Now and then a message is acknowledged and not stored.
    DropMessages,
    /// Messages are acknowledged before they are written.
    AcknowledgeEarly,
    /// After a restart the first unacked range of a group is forgotten.
    ForgetUnacked,
    /// After an unclean stop pull sequences continue where the log ends, without a jump.
    ReusePullSequences,
    /// First contacts are answered before they are durable.
    ForgetFirstContact,
    /// Messages of dead consumers are acked before their copies are stored.
    AckBeforeCopy,
    /// Messages of dead consumers are acked and not copied: the reference does so.
    AckWithoutCopy,
    /// Copies that the broker makes do not count as a delivery.
    KeepTimes,
    /// Messages of retry subjects are handed out at once.
    ForgetDelay,
    /// Now and then a consumer gets what it does not want.
    LetThrough,
    /// Now and then a consumer does not get what it wants.
    PassOver,
    /// Nobody looks who is dead.
    NeverLook,
    /// A moved group is not written down: the reference does so.
    ForgetMove,
    /// Controls are acknowledged before they are synced.
    SkipControlSync,
}

impl Sabotage {
    /// All switches that break something.
    pub const ALL: [Self; 15] = [
        Self::SkipSync,
        Self::DropMessages,
        Self::AcknowledgeEarly,
        Self::ForgetUnacked,
        Self::ReusePullSequences,
        Self::ForgetFirstContact,
        Self::AckBeforeCopy,
        Self::AckWithoutCopy,
        Self::KeepTimes,
        Self::ForgetDelay,
        Self::LetThrough,
        Self::PassOver,
        Self::NeverLook,
        Self::ForgetMove,
        Self::SkipControlSync,
    ];

    /// The switch of the store, when it is the store that is to break the promise.
    #[must_use]
    pub fn of_the_store(self) -> qmq_store::Sabotage {
        match self {
            Self::SkipSync => qmq_store::Sabotage::SkipSync,
            Self::DropMessages => qmq_store::Sabotage::DropMessage(40),
            Self::AcknowledgeEarly => qmq_store::Sabotage::AnswerBeforeWrite,
            Self::ForgetUnacked => qmq_store::Sabotage::ForgetUnacked,
            Self::SkipControlSync => qmq_store::Sabotage::SkipControlSync,
            _ => qmq_store::Sabotage::None,
        }
    }
}

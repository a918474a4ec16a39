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
}

impl Sabotage {
    /// All switches that break something.
    pub const ALL: [Self; 6] = [
        Self::SkipSync,
        Self::DropMessages,
        Self::AcknowledgeEarly,
        Self::ForgetUnacked,
        Self::ReusePullSequences,
        Self::ForgetFirstContact,
    ];
}

impl Sabotage {
    /// The switch of the store, when it is the store that is to break the promise.
    #[must_use]
    pub fn of_the_store(self) -> qmq_store::Sabotage {
        match self {
            Self::SkipSync => qmq_store::Sabotage::SkipSync,
            Self::DropMessages => qmq_store::Sabotage::DropMessage(40),
            Self::AcknowledgeEarly => qmq_store::Sabotage::AnswerBeforeWrite,
            Self::ForgetUnacked => qmq_store::Sabotage::ForgetUnacked,
            Self::None | Self::ReusePullSequences | Self::ForgetFirstContact => {
                qmq_store::Sabotage::None
            }
        }
    }
}

//! Command and result codes; one module per command.

/// What a request asks for. Requests and results are separate number spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum CommandCode {
    /// Producer to broker or delay server.
    SendMessage = 10,
    /// Consumer to broker.
    PullMessage = 11,
    /// Consumer to broker: done, or only alive.
    Ack = 12,
    /// Broker to metaserver: online, alive, offline.
    BrokerRegister = 30,
    /// Producer or consumer to metaserver: where is my subject?
    ClientRegister = 35,
    /// Broker to metaserver: who am I?
    BrokerAcquireMeta = 40,
    /// Any client to any server: are you there?
    Heartbeat = 100,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum ResultCode {
    /// Done; the body depends on the command.
    Success = 0,
    /// No handler for this code on this port.
    UnknownCode = 3,
    /// A pull found nothing, or its parameters are bad.
    NoMessage = 4,
    /// The body cannot be parsed, or the server failed.
    BrokerError = 51,
    /// This server's role does not take such requests.
    BrokerReject = 52,
    /// A parameter is missing.
    ParamError = 53,
    /// The answer to a heartbeat.
    Heartbeat = 100,
}

impl CommandCode {
    /// The number in the header.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }
}

impl ResultCode {
    /// The number in the header.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }
}

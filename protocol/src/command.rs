//! Command and result codes; one module per command.

pub mod ack;
pub mod broker_acquire_meta;
pub mod broker_register;
pub mod browse;
pub mod client_register;
pub mod consume_manage;
pub mod heartbeat;
pub mod pull;
pub mod send;
pub mod sync;

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
    /// Slave or backup to a sync port: bytes of a log. Two layouts, told apart by the port.
    SyncLog = 20,
    /// Slave to a broker's sync port: where to begin.
    SyncCheckpoint = 21,
    /// Metaserver to broker: reset a group.
    ConsumeManage = 25,
    /// Broker to metaserver: online, alive, offline.
    BrokerRegister = 30,
    /// Producer or consumer to metaserver: where is my subject?
    ClientRegister = 35,
    /// Broker to metaserver: who am I?
    BrokerAcquireMeta = 40,
    /// Any client to any server: are you there?
    Heartbeat = 100,
    /// Anybody to a broker: which messages are there? Our own.
    Browse = 1001,
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
    /// The command with this number, if we know it.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            10 => Self::SendMessage,
            11 => Self::PullMessage,
            12 => Self::Ack,
            20 => Self::SyncLog,
            21 => Self::SyncCheckpoint,
            25 => Self::ConsumeManage,
            30 => Self::BrokerRegister,
            35 => Self::ClientRegister,
            40 => Self::BrokerAcquireMeta,
            100 => Self::Heartbeat,
            1001 => Self::Browse,
            _ => return None,
        })
    }

    /// The number in the header.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }
}

impl ResultCode {
    /// The result with this number, if we know it.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            3 => Self::UnknownCode,
            4 => Self::NoMessage,
            51 => Self::BrokerError,
            52 => Self::BrokerReject,
            53 => Self::ParamError,
            100 => Self::Heartbeat,
            _ => return None,
        })
    }

    /// The number in the header.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_leads_back_to_its_code() {
        let commands = (i16::MIN..=i16::MAX).filter_map(|n| Some((n, CommandCode::from_code(n)?)));
        let commands: Vec<_> = commands
            .inspect(|(n, c)| assert_eq!(c.code(), *n))
            .collect();
        assert_eq!(commands.len(), 11);
        let results = (i16::MIN..=i16::MAX).filter_map(|n| Some((n, ResultCode::from_code(n)?)));
        let results: Vec<_> = results.inspect(|(n, c)| assert_eq!(c.code(), *n)).collect();
        assert_eq!(results.len(), 7);
    }
}

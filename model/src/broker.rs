//! Broker groups, roles and states, with the numbers they have on the wire.

/// One master and its slaves: the unit of routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerGroup {
    /// Name of the group, unique in the cluster.
    pub name: String,
    /// `ip:port` that clients use.
    pub master: String,
    /// When its row last changed.
    pub updated_ms: i64,
    /// What clients may do with it.
    pub state: BrokerState,
}

/// What one broker process is within its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum BrokerRole {
    /// Takes messages and serves consumers.
    Master = 0,
    /// Holds a second copy.
    Slave = 1,
    /// Known to the reference, refused at start.
    Standby = 2,
    /// Delay server of old releases.
    Delay = 3,
    /// Backup of realtime messages.
    Backup = 4,
    /// Takes delayed messages and delivers them.
    DelayMaster = 5,
    /// Holds a second copy of delayed messages.
    DelaySlave = 6,
    /// Backup of delayed messages.
    DelayBackup = 7,
}

impl BrokerRole {
    /// The role with this number, if there is one.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            0 => Self::Master,
            1 => Self::Slave,
            2 => Self::Standby,
            3 => Self::Delay,
            4 => Self::Backup,
            5 => Self::DelayMaster,
            6 => Self::DelaySlave,
            7 => Self::DelayBackup,
            _ => return None,
        })
    }

    /// The number on the wire and in SQL.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The name in JSON replies of the metaserver.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Slave => "SLAVE",
            Self::Standby => "STANDBY",
            Self::Delay => "DELAY",
            Self::Backup => "BACKUP",
            Self::DelayMaster => "DELAY_MASTER",
            Self::DelaySlave => "DELAY_SLAVE",
            Self::DelayBackup => "DELAY_BACKUP",
        }
    }

    /// Whether the group's address is this broker's: only masters are tracked by the metaserver.
    #[must_use]
    pub const fn is_master(self) -> bool {
        matches!(
            self,
            Self::Master | Self::Standby | Self::Delay | Self::DelayMaster
        )
    }

    /// Whether a group of this role delivers delayed messages.
    #[must_use]
    pub const fn is_delay(self) -> bool {
        matches!(
            self,
            Self::Delay | Self::DelayMaster | Self::DelaySlave | Self::DelayBackup
        )
    }
}

/// What clients may do with a broker group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum BrokerState {
    /// Read and write.
    ReadWrite = 1,
    /// Read only.
    Read = 2,
    /// Write only.
    Write = 3,
    /// Neither: the group is away.
    Away = 4,
}

impl BrokerState {
    /// The state with this number, if there is one.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            1 => Self::ReadWrite,
            2 => Self::Read,
            3 => Self::Write,
            4 => Self::Away,
            _ => return None,
        })
    }

    /// The number on the wire and in SQL.
    #[must_use]
    pub const fn code(self) -> i8 {
        self as i8
    }

    /// The name in JSON replies of the metaserver.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "RW",
            Self::Read => "R",
            Self::Write => "W",
            Self::Away => "NRW",
        }
    }

    /// Whether consumers may pull from the group.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Read)
    }

    /// Whether producers may send to the group.
    #[must_use]
    pub const fn can_write(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Write)
    }
}

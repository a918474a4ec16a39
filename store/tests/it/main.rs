//! Integration tests of the store: against a plain model, under power cuts, faults and damage.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backlog;
mod batches;
mod damage;
mod delay;
mod delay_faults;
mod delay_runs;
mod delay_tables;
mod delay_world;
mod faults;
mod groups;
mod load;
mod located;
mod model;
mod power_cut;
mod real_files;
mod repeats;
mod restart;
mod retention;
mod sabotage;
mod world;

//! Tests of the whole: real daemon, registry, CNI plugins, OCI runtime and kernel, in private
//! places. After each the leak audit runs.

mod bad_input;
mod containers;
mod costs;
mod faults;
mod fixture;
mod images;
mod pods;
mod restart;
mod retries;

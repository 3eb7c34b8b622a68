//! Calls that containers' seccomp filters leave to us: refused and counted here, told to the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use monitor_protocol::{ErrorKind, Event, FromMonitor, Id};

use super::{Refusal, Server};
use crate::connection::Connection;
use crate::notify::{Came, Notify};

/// The version of the messages that knows of them.
const SINCE: u32 = 4;

impl Server {
    /// Listens for a container that is made or taken over now, where that was said of it.
    pub(super) fn notify(&mut self, id: &Id) -> io::Result<Option<Notify>> {
        let Some(path) = self.notify_of(id) else {
            return Ok(None);
        };
        let number = self.next_number();
        Notify::listen(path.into(), number).map(Some)
    }

    /// Takes a listener of a monitor that died.
    pub(super) fn listen(&mut self, id: &Id, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let number = self.next_number();
        let notify = self.find(id)?.notify.as_mut();
        let no = |kind, text: &str| (kind, text.to_owned());
        let notify = notify.ok_or_else(|| no(ErrorKind::WrongState {}, "nobody listens"))?;
        let mut fds = fds.into_iter();
        match fds.next().is_some_and(|fd| notify.add(number, fd)) {
            true => Ok(()),
            false => Err(no(ErrorKind::BadRequest {}, "no seccomp filter's listener")),
        }
    }

    pub(super) fn look_at_seccomp(&mut self, number: u64, gone: bool) {
        let mut containers = self.containers.iter_mut();
        let found = containers.find_map(|container| {
            let notify = container.notify.as_mut()?;
            let is_its = notify.watched().any(|(known, _)| known == number);
            is_its.then(|| (container.create.id.clone(), notify))
        });
        let Some((id, notify)) = found else { return };
        match notify.ready(number, gone) {
            Came::Nothing => {}
            Came::Call(call) => notify.count(call.arch, call.number),
            Came::Sender(fd) => {
                let number = self.next_number();
                self.with_notify(&id, |notify| notify.connected(number, fd));
            }
            Came::Listeners(fds) => {
                for fd in fds {
                    self.listener_came(&id, fd);
                }
            }
        }
    }

    fn listener_came(&mut self, id: &Id, fd: OwnedFd) {
        let number = self.next_number();
        let copy = fd.try_clone();
        let taken = self.with_notify(id, |notify| notify.add(number, fd));
        if let (Some(true), Ok(copy)) = (taken, copy) {
            for at in 0..self.connections.len() {
                self.tell_listener(at, id, &copy);
            }
        }
    }

    /// Tells all that is known to who has just said Hello.
    pub(super) fn tell_again(&mut self, connection: u64) {
        let found = |one: &Connection| one.number == connection;
        let Some(at) = self.connections.iter().position(found) else {
            return;
        };
        let mut listeners = Vec::new();
        for container in &mut self.containers {
            let id = &container.create.id;
            if let Some(notify) = &mut container.notify {
                let copies = notify.listeners().filter_map(|fd| fd.try_clone().ok());
                listeners.extend(copies.map(|fd| (id.clone(), fd)));
                notify.tell_again();
            }
        }
        for (id, fd) in listeners {
            self.tell_listener(at, &id, &fd);
        }
    }

    /// A listener that is not told is lost with this monitor; more it is not worth.
    fn tell_listener(&mut self, at: usize, id: &Id, listener: &OwnedFd) {
        let connection = self.connections.get_mut(at);
        let connection = connection.filter(|one| one.hears(SINCE) && one.has_room());
        if let (Some(connection), Ok(copy)) = (connection, listener.try_clone()) {
            let event = Event::Listening { id: id.clone() };
            connection.send(&FromMonitor::Event { event }, vec![copy]);
        }
    }

    /// Tells the counts that are due.
    pub(super) fn tell_due(&mut self, now: Instant) {
        for at in 0..self.containers.len() {
            let notify = self.containers.get(at).and_then(|one| one.notify.as_ref());
            let due = notify.and_then(|notify| notify.tell_at);
            if due.is_some_and(|due| due <= now) {
                self.tell_forbidden(at);
            }
        }
    }

    /// Tells what is new of a container's counts; later, where a daemon does not keep up.
    pub(super) fn tell_forbidden(&mut self, at: usize) {
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        let Some(notify) = &mut container.notify else {
            return;
        };
        let hears = |one: &&mut Connection| one.hears(SINCE);
        loop {
            if !self
                .connections
                .iter_mut()
                .filter(hears)
                .all(|one| one.has_room())
            {
                return notify.put_off();
            }
            let Some(news) = notify.news() else { return };
            let event = Event::Forbidden {
                id: container.create.id.clone(),
                arch: news.arch,
                number: news.number,
                count: news.count,
            };
            let message = FromMonitor::Event { event };
            for connection in self.connections.iter_mut().filter(hears) {
                connection.send(&message, Vec::new());
            }
        }
    }

    fn with_notify<T>(&mut self, id: &Id, act: impl FnOnce(&mut Notify) -> T) -> Option<T> {
        self.find(id).ok()?.notify.as_mut().map(act)
    }
}

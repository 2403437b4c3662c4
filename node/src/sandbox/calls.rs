//! The system calls: a filter (seccomp) that refuses what no node ever needs.
//!
//! Behind a hole in the code lies the kernel, and holes in that are found mostly in parts that few programs use. So these
//! are out of reach: starting programs, other processes, namespaces and mounts, loading code into the kernel, keys,
//! `io_uring` and the like, and sockets of other families than the network's and the machine's own.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Refuses them to the calling thread and all that it will start. Says whether the kernel does it.
pub(super) fn refuse() -> io::Result<bool> {
    // Its flags cannot be looked at. It is not there, rather than not permitted, so that the C library uses what was before.
    let unknown = [(libc::SYS_clone3, Vec::new())];
    Ok(apply(unknown.into(), libc::ENOSYS)? && apply(rules()?, libc::EPERM)?)
}

/// Rules for the arguments of a system call, any of which is enough; none means whatever they are.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refuses what matches the rules with this error.
fn apply(mut rules: Rules, errno: i32) -> io::Result<bool> {
    // The same calls as programs with short pointers make them, where the kernel takes those.
    #[cfg(target_arch = "x86_64")]
    rules.extend(rules.clone().into_iter().map(|(call, rules)| (call | X32, rules)));
    let refused = SeccompAction::Errno(errno as u32);
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    match apply_filter(&program) {
        Ok(()) => Ok(true),
        // A kernel that was built without it, or somebody who does not let us, having filters of his own.
        Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM)) =>
        {
            Ok(false)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

fn rules() -> io::Result<Rules> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let family = |operator: SeccompCmpOp, family: i32| condition(0, operator, family as u64);
    let is_none_of = |other: &i32| family(SeccompCmpOp::Ne, *other);
    let of_other_family = FAMILIES.iter().map(is_none_of).collect::<io::Result<Vec<_>>>()?;
    let of_other_netlink =
        vec![family(SeccompCmpOp::Eq, libc::AF_NETLINK)?, condition(2, SeccompCmpOp::Ne, NETLINK_ROUTE)?];
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![rule(of_other_family.clone())?, rule(of_other_netlink.clone())?]);
    }
    let with_namespace = |flag: &i32| {
        let flag = *flag as u64;
        rule(vec![condition(0, SeccompCmpOp::MaskedEq(flag), flag)?])
    };
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(with_namespace).collect::<io::Result<_>>()?);
    #[cfg(target_arch = "x86_64")]
    rules.extend(REFUSED_OF_X32.iter().map(|call| (*call, Vec::new())));
    Ok(rules)
}

/// All conditions together.
fn rule(conditions: Vec<SeccompCondition>) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// Of one argument, which is a number of 32 bits.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(io::Error::other)
}

/// What marks a call with short pointers.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// What has numbers of its own there: `execve`, `ptrace`, `kexec_load`, `vmsplice`, `process_vm_readv`, `process_vm_writev` and
/// `execveat`. Old kernels take them without the mark as well.
#[cfg(target_arch = "x86_64")]
const REFUSED_OF_X32: [i64; 7] = [520, 521, 528, 532, 539, 540, 545];

/// Of the protocols of netlink the one that tells of interfaces.
const NETLINK_ROUTE: u64 = 0;

/// Families of sockets that there may be.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Flags for namespaces of a process's own.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// The crate `libc` does not have it for all systems with this processor.
const KEXEC_FILE_LOAD: i64 = if cfg!(target_arch = "x86_64") { 320 } else { 294 };

/// What is refused whatever its arguments are.
const REFUSED: &[i64] = &[
    // Programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    // Namespaces and mounts.
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Files past their paths.
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Other users and more rights.
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // The machine.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Code for the kernel.
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    KEXEC_FILE_LOAD,
    libc::SYS_kexec_load,
    // Parts in which holes have been found, and that are of no use here.
    libc::SYS_add_key,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_vmsplice,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What the system answers to a call with arguments that lead nowhere, which nothing comes of if it is not refused.
    fn answer(call: i64, first: i64) -> Option<i32> {
        // SAFETY: no argument is a pointer that anything could be read from or written to, and no call that may be made
        // here does anything with them that this process would notice.
        #[expect(unsafe_code, reason = "there is no other way to make any call")]
        let result = unsafe { libc::syscall(call, first, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
        if result == -1 { io::Error::last_os_error().raw_os_error() } else { None }
    }

    /// Runs this in a thread that is refused the calls; not at all, and saying so, where the kernel cannot do that.
    fn refused(work: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| match refuse().unwrap() {
                true => work(),
                false => eprintln!("SKIPPED: this kernel cannot refuse calls"),
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn every_call_of_the_list_is_refused() {
        refused(|| {
            for call in REFUSED {
                assert_eq!(answer(*call, -1), Some(libc::EPERM), "call {call}");
                #[cfg(target_arch = "x86_64")]
                assert_eq!(answer(*call | X32, -1), Some(libc::EPERM), "call {call} with short pointers");
            }
            #[cfg(target_arch = "x86_64")]
            for call in REFUSED_OF_X32 {
                assert_eq!(answer(call | X32, -1), Some(libc::EPERM), "call {call} with short pointers");
            }
        });
    }

    #[test]
    fn namespaces_are_refused_and_threads_are_not() {
        // With both, the kernel finds the arguments wrong before it does anything.
        let wrong = i64::from(libc::CLONE_SIGHAND);
        assert_eq!(answer(libc::SYS_clone, wrong), Some(libc::EINVAL));
        refused(|| {
            for namespace in NAMESPACES {
                let flags = wrong | i64::from(namespace);
                assert_eq!(answer(libc::SYS_clone, flags), Some(libc::EPERM), "{namespace:x}");
            }
            assert_eq!(answer(libc::SYS_clone, wrong), Some(libc::EINVAL));
            assert_eq!(answer(libc::SYS_clone3, 0), Some(libc::ENOSYS));
            assert_eq!(std::thread::scope(|scope| scope.spawn(|| 7).join().unwrap()), 7);
        });
    }

    #[test]
    fn sockets_of_other_families_are_refused() {
        use socket2::{Domain, Protocol, Socket, Type};
        let open = |family: i32, protocol: i32| {
            let protocol = Some(Protocol::from(protocol));
            Socket::new(Domain::from(family), Type::DGRAM, protocol)
                .err()
                .and_then(|error| error.raw_os_error())
        };
        let pair = |family: i32| {
            Socket::pair(Domain::from(family), Type::STREAM, None)
                .err()
                .and_then(|error| error.raw_os_error())
        };
        refused(|| {
            for family in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_PACKET, libc::AF_TIPC] {
                assert_eq!(
                    (open(family, 0), pair(family)),
                    (Some(libc::EPERM), Some(libc::EPERM)),
                    "{family}"
                );
            }
            assert_eq!(open(libc::AF_NETLINK, libc::NETLINK_KOBJECT_UEVENT), Some(libc::EPERM));
            assert_eq!([open(libc::AF_NETLINK, 0), open(libc::AF_INET, 0), pair(libc::AF_UNIX)], [None; 3]);
        });
    }
}

"""Raw system calls, by name, on x86_64 and aarch64. An unknown machine has an empty table."""

import ctypes
import fcntl
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_THREAD = 0x10000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 24, 28
PR_SET_NO_NEW_PRIVS = 38

MACHINE = os.uname().machine

_X86_64 = """
ioctl 16 shmget 29 shmat 30 shmctl 31 socket 41 connect 42 bind 49 listen 50 socketpair 53 clone 56
fork 57 vfork 58 execve 59 kill 62 semget 64 semop 65 semctl 66 shmdt 67 msgget 68 msgsnd 69
msgrcv 70 msgctl 71 fcntl 72 truncate 76 chmod 90 fchmod 91 chown 92 fchown 93 lchown 94 ptrace 101
syslog 103 capset 126 rt_sigqueueinfo 129 utime 132 uselib 134 personality 135 ustat 136
setpriority 141 sched_setparam 142 sched_setscheduler 144 vhangup 153 modify_ldt 154 pivot_root 155
_sysctl 156 adjtimex 159 setrlimit 160 chroot 161 sync 162 acct 163 settimeofday 164 mount 165
umount2 166 swapon 167 swapoff 168 reboot 169 sethostname 170 setdomainname 171 iopl 172 ioperm 173
create_module 174 init_module 175 delete_module 176 get_kernel_syms 177 query_module 178
quotactl 179 nfsservctl 180 setxattr 188 lsetxattr 189 fsetxattr 190 removexattr 197
lremovexattr 198 fremovexattr 199 tkill 200 sched_setaffinity 203 io_setup 206 io_destroy 207
io_submit 209 lookup_dcookie 212 remap_file_pages 216 semtimedop 220
clock_settime 227 tgkill 234 utimes 235
mbind 237 set_mempolicy 238 mq_open 240 mq_unlink 241 kexec_load 246 add_key 248 request_key 249
keyctl 250 ioprio_set 251 inotify_init 253 migrate_pages 256 open 2 openat 257 fchownat 260
futimesat 261 fchmodat 268 unshare 272 move_pages 279 utimensat 280 inotify_init1 294
rt_tgsigqueueinfo 297 perf_event_open 298 fanotify_init 300 prlimit64 302 name_to_handle_at 303
open_by_handle_at 304 clock_adjtime 305 setns 308 process_vm_readv 310 process_vm_writev 311
kcmp 312 finit_module 313 sched_setattr 314 seccomp 317 memfd_create 319 kexec_file_load 320 bpf 321
execveat 322 userfaultfd 323 io_pgetevents 333
"""
_AARCH64 = """
io_setup 0 io_destroy 1 io_submit 2 setxattr 5 lsetxattr 6 fsetxattr 7 removexattr 14
lremovexattr 15 fremovexattr 16 lookup_dcookie 18 fcntl 25 inotify_init1 26 ioctl 29 ioprio_set 30
umount2 39 mount 40 pivot_root 41 nfsservctl 42 truncate 45 chroot 51 fchmod 52 fchmodat 53
fchownat 54 fchown 55 openat 56 vhangup 58 quotactl 60 sync 81 utimensat 88 acct 89 capset 91
personality 92 unshare 97 kexec_load 104 init_module 105 delete_module 106 clock_settime 112
syslog 116 ptrace 117 sched_setparam 118 sched_setscheduler 119 sched_setaffinity 122 kill 129
tkill 130 tgkill 131 rt_sigqueueinfo 138 setpriority 140 reboot 142 sethostname 161
setdomainname 162 setrlimit 164 settimeofday 170 adjtimex 171 mq_open 180 mq_unlink 181 msgget 186
msgctl 187 msgrcv 188 msgsnd 189 semget 190 semctl 191 semtimedop 192 semop 193 shmget 194
shmctl 195 shmat 196 shmdt 197 socket 198 socketpair 199 bind 200 listen 201 connect 203
add_key 217 request_key 218 keyctl 219 clone 220 execve 221 swapon 224 swapoff 225
remap_file_pages 234 mbind 235 set_mempolicy 237 migrate_pages 238 move_pages 239
rt_tgsigqueueinfo 240 perf_event_open 241 prlimit64 261 fanotify_init 262 name_to_handle_at 264
open_by_handle_at 265 clock_adjtime 266 setns 268 process_vm_readv 270 process_vm_writev 271
kcmp 272 finit_module 273 sched_setattr 274 seccomp 277 memfd_create 279 bpf 280 execveat 281
userfaultfd 282 io_pgetevents 292 kexec_file_load 294
"""
_NEWER = """
pidfd_send_signal 424 io_uring_setup 425 io_uring_enter 426 io_uring_register 427 open_tree 428
move_mount 429 fsopen 430 fsconfig 431 fsmount 432 fspick 433 pidfd_open 434 clone3 435
close_range 436 openat2 437 pidfd_getfd 438 process_madvise 440 mount_setattr 442 quotactl_fd 443
landlock_create_ruleset 444 landlock_add_rule 445 landlock_restrict_self 446 memfd_secret 447
process_mrelease 448 set_mempolicy_home_node 450 fchmodat2 452 statmount 457 listmount 458
lsm_get_self_attr 459 lsm_set_self_attr 460 lsm_list_modules 461 setxattrat 463 removexattrat 466
"""
HIGHEST = 462
"""The last call known here to be harmless unless named above; later ones do not exist inside."""


def _table(*texts: str) -> dict[str, int]:
    words = " ".join(texts).split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}


CALLS = {"x86_64": _table(_X86_64, _NEWER), "aarch64": _table(_AARCH64, _NEWER)}.get(MACHINE, {})


def call(name: str, *arguments: object) -> int:
    """The system call `name`; an OSError that names it where it fails.

    ctypes hands numbers over as C ints, so they are widened here.
    """
    if name not in CALLS:
        raise OSError(38, f"{name} is not known on {MACHINE}")
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    done = libc.syscall(ctypes.c_long(CALLS[name]), *wide)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return done


def prctl(option: int, *values: int) -> None:
    """`prctl` with its five arguments."""
    wide = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *wide) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def close_from(first: int) -> None:
    """Close every file descriptor from `first` on."""
    try:
        call("close_range", first, 0xFFFFFFFF, 0)
    except OSError:
        os.closerange(first, 65536)


def moved_up(descriptor: int) -> int:
    """The same open file at a number of 64 or more, out of the way of a program's first five."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(descriptor)
    return high

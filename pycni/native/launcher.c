/* The native launcher: hand the call to the node's agent, or become the Python process that does the work.

   The same as pycni/launcher.py, in the frames of pycni/agent/protocol.py; what it sends and passes on is
   never parsed. The system frees what is not freed here.
   Sources: unix(7), cmsg(3), posix_spawn(3), pidfd_open(2), memfd_create(2), signal(7). */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum { PROTOCOL = 1, REQUEST = 1, TAKEN = 2, GO = 4, EXECUTE = 5, EXECUTED = 6, ANSWER = 7, CANCEL = 8 };
enum { STDIN_LIMIT = 16 << 20, OUTPUT_LIMIT = 16 << 20, FRAME_LIMIT = 40 << 20, TOO_LARGE = 0xFFFF };
enum { TAKEN_MS = 1000, PIPE_MS = 1000, KILL_MS = 5000, BUSY_ATTEMPTS = 6 };
enum { HEAD = 8, PIECE = 1 << 16, FIELDS = 3, NEVER = -1 };

/* `pycni install` writes these strings, NUL after each, over the placeholder in a copy of the executable. */
enum { RELEASE, PLUGIN, REF, SOCKET, PYTHON, TEXT, ABSENT, SETTINGS };
char settings[16384] = "pycni-launcher-settings";

typedef struct { char *data; size_t size, room; } Buffer;
typedef struct { int kind, count; char *body; Buffer field[FIELDS]; } Frame;

static const int stops[] = {SIGTERM, SIGINT, SIGHUP};
static const char *setting[SETTINGS];
static sigset_t caller_mask;
static volatile sig_atomic_t ended_by; /* the first signal that asked this process to stop */
static int passed_on;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * (int64_t)1000 + time.tv_nsec / 1000000;
}

/* Wait with the caller's signal mask: after GO signals arrive here and nowhere else. 0 means too late. */
static int wait_ready(struct pollfd *polls, nfds_t count, int64_t until) {
    int64_t left = until == NEVER ? 0 : until - now();
    if (left < 0) left = 0;
    struct timespec time = {left / 1000, left % 1000 * 1000000};
    return ppoll(polls, count, until == NEVER ? NULL : &time, &caller_mask);
}

static int wait_one(int descriptor, short events, int64_t until) {
    struct pollfd one = {descriptor, events, 0};
    return wait_ready(&one, 1, until);
}

static int write_all(int descriptor, const char *data, size_t size) {
    while (size) {
        ssize_t count = write(descriptor, data, size);
        if (count >= 0) data += count, size -= (size_t)count;
        else if (errno == EAGAIN) wait_one(descriptor, POLLOUT, NEVER);
        else if (errno != EINTR) return 0;
    }
    return 1;
}

static void give_up(const char *object) {
    write_all(1, object, strlen(object));
    _exit(1);
}

static char *room_for(Buffer *buffer, size_t more) {
    if (buffer->room - buffer->size < more) {
        buffer->room = 2 * buffer->room + more;
        buffer->data = realloc(buffer->data, buffer->room);
        if (!buffer->data) give_up("{\n    \"code\": 999,\n    \"msg\": \"pycni launcher: out of memory\"\n}");
    }
    return buffer->data + buffer->size;
}

static void add(Buffer *buffer, const void *data, size_t size) {
    memcpy(room_for(buffer, size + 1), data, size);
    buffer->size += size;
}

static void add_number(Buffer *buffer, uint64_t value, int bytes) {
    for (; bytes--; value >>= 8) add(buffer, &(char){(char)value}, 1);
}

static void add_field(Buffer *buffer, const void *data, size_t size) {
    add_number(buffer, size, 4);
    add(buffer, data, size);
}

static uint32_t number(const void *data) {
    const unsigned char *byte = data;
    return byte[0] | byte[1] << 8 | byte[2] << 16 | (uint32_t)byte[3] << 24;
}

static Buffer begin_frame(int kind) {
    Buffer frame = {0};
    add(&frame, (char[HEAD]){PROTOCOL, (char)kind}, HEAD);
    return frame;
}

static int send_frame(int sock, Buffer frame, int descriptor, int64_t until) {
    for (int at = 0; at < 4; at++) frame.data[4 + at] = (char)((frame.size - HEAD) >> 8 * at);
    for (size_t sent = 0; sent < frame.size;) {
        union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } rights = {{0}};
        struct iovec piece = {frame.data + sent, frame.size - sent};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
        if (descriptor >= 0 && !sent) {
            message.msg_control = &rights, message.msg_controllen = sizeof rights;
            rights.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
            memcpy(CMSG_DATA(&rights.header), &descriptor, sizeof descriptor);
        }
        ssize_t count = sendmsg(sock, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count >= 0) sent += (size_t)count;
        else if (errno != EINTR && (errno != EAGAIN || !wait_one(sock, POLLOUT, until))) return 0;
    }
    free(frame.data);
    return 1;
}

static void note(int signal_number) {
    if (!ended_by) ended_by = signal_number;
}

/* Called between frames only, so that nothing is sent into the middle of one. */
static void pass_on_signal(int sock) {
    if (ended_by && !passed_on) passed_on = 1, send_frame(sock, begin_frame(CANCEL), -1, NEVER);
}

static int receive(int sock, char *data, size_t size, int *descriptor, int64_t until) {
    while (size) {
        union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } rights;
        struct iovec piece = {data, size};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &rights};
        message.msg_controllen = CMSG_LEN(sizeof(int)); /* for one descriptor: the kernel drops others */
        ssize_t count = recvmsg(sock, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (count > 0 && message.msg_controllen >= CMSG_LEN(sizeof(int)) && rights.header.cmsg_type == SCM_RIGHTS) {
            if (*descriptor >= 0) close(*descriptor);
            memcpy(descriptor, CMSG_DATA(&rights.header), sizeof *descriptor);
        }
        if (count > 0) data += count, size -= (size_t)count;
        else if (!count || (errno != EAGAIN && errno != EINTR)) return 0;
        else {
            pass_on_signal(sock);
            if (!wait_one(sock, POLLIN, until)) return 0;
            pass_on_signal(sock);
        }
    }
    return 1;
}

/* 0 if the connection ends, the time is over, or what comes is no frame. */
static int receive_frame(int sock, Frame *frame, int *descriptor, int64_t until) {
    char head[HEAD];
    if (!receive(sock, head, HEAD, descriptor, until)) return 0;
    size_t size = number(head + 4), at = 0;
    if (head[0] != PROTOCOL || head[2] || head[3] || size > FRAME_LIMIT) return 0;
    Buffer body = {0};
    *frame = (Frame){.kind = head[1], .body = room_for(&body, size + 1)};
    if (!receive(sock, frame->body, size, descriptor, until)) return 0;
    for (frame->body[size] = 0; at < size; frame->count++) {
        if (frame->count == FIELDS || size - at < 4) return 0;
        size_t length = number(frame->body + at);
        if (length > size - at - 4) return 0;
        frame->body[at] = 0; /* ends the field before as a string */
        frame->field[frame->count] = (Buffer){frame->body + at + 4, length, 0};
        at += 4 + length;
    }
    return 1;
}

/* Starts the program with its streams at the other ends of `ends`, the caller's signal mask and no signal of
   ours ignored. Returns 0 or an errno. */
static int spawn(pid_t *pid, Frame *order, int ends[3]) {
    Buffer variables = {0}, block = order->field[1];
    for (size_t at = 0; at < block.size; at += strlen(block.data + at) + 1)
        add(&variables, &(char *){block.data + at}, sizeof(char *));
    add(&variables, &(char *){NULL}, sizeof(char *));
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    for (int number = 0; number < 3; number++) posix_spawn_file_actions_adddup2(&actions, ends[number], number);
    sigset_t defaults;
    sigemptyset(&defaults), sigaddset(&defaults, SIGPIPE), sigaddset(&defaults, SIGXFSZ);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setsigmask(&attributes, &caller_mask);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    char *path = order->field[0].data;
    for (int attempt = 1;; attempt++) {
        int failed = posix_spawn(pid, path, &actions, &attributes, (char *[]){path, NULL}, (char **)variables.data);
        if (failed != ETXTBSY || attempt == BUSY_ATTEMPTS) return failed;
        sleep(1);
    }
}

static void feed(struct pollfd *input, Buffer *data) {
    ssize_t count = write(input->fd, data->data, data->size);
    if (count < 0 && errno == EAGAIN) return;
    if (count > 0) data->data += count, data->size -= (size_t)count;
    else data->size = 0; /* a program need not read its standard input */
    if (!data->size) close(input->fd), input->fd = -1;
}

static void drain(struct pollfd *output, Buffer *into) {
    char piece[PIECE];
    ssize_t count = read(output->fd, piece, sizeof piece);
    if (count > 0 && into->size < OUTPUT_LIMIT) add(into, piece, (size_t)count);
    if (count <= 0) close(output->fd), output->fd = -1;
}

/* Serve the program's streams until it has ended; returns its exit status, or minus its signal. A signal that
   arrives meanwhile ends it; one that came before does not: then the program is part of the clean-up. */
static int64_t attend(int sock, pid_t pid, struct pollfd polls[4], Buffer *input, Buffer output[2]) {
    int64_t ended = 0, stopped = ended_by ? INT64_MAX : 0;
    while (polls[1].fd >= 0 || polls[2].fd >= 0 || !ended) {
        int64_t until = ended ? ended + PIPE_MS : stopped && stopped != INT64_MAX ? stopped + KILL_MS : NEVER;
        for (int number = 0; number < 4; number++) polls[number].revents = 0;
        if (!wait_ready(polls, 4, until)) {
            if (ended) break; /* descendants may hold the output open for so long */
            kill(pid, SIGKILL), stopped = INT64_MAX;
        }
        if (polls[0].revents) feed(&polls[0], input);
        if (polls[1].revents) drain(&polls[1], &output[0]);
        if (polls[2].revents) drain(&polls[2], &output[1]);
        if (polls[3].revents) ended = now(), polls[3].fd = -1;
        pass_on_signal(sock);
        if (ended_by && !stopped && !ended) stopped = now(), kill(pid, SIGTERM);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static Buffer execute(int sock, Frame *order) {
    int64_t status = -1;
    Buffer output[2] = {{0}}, reply = begin_frame(EXECUTED);
    char failure[128] = "";
    int in[2], out[2], err[2], pidfd = -1, failed = 0;
    pid_t pid;
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) failed = errno;
    else {
        failed = spawn(&pid, order, (int[]){in[0], out[1], err[1]});
        close(in[0]), close(out[1]), close(err[1]);
        if (!failed && (pidfd = (int)syscall(SYS_pidfd_open, pid, 0)) < 0) failed = errno, kill(pid, SIGKILL);
        struct pollfd polls[4] = {{in[1], POLLOUT, 0}, {out[0], POLLIN, 0}, {err[0], POLLIN, 0}, {pidfd, POLLIN, 0}};
        fcntl(in[1], F_SETFL, O_NONBLOCK);
        if (!failed) status = attend(sock, pid, polls, &order->field[2], output);
        for (int number = 0; number < 3; number++)
            if (polls[number].fd >= 0) close(polls[number].fd);
        if (pidfd >= 0) close(pidfd);
    }
    if (failed) snprintf(failure, sizeof failure, "%s", strerror(failed));
    for (char *letter = failure; *letter; letter++) *letter = (char)tolower(*letter);
    add_number(&reply, 8, 4), add_number(&reply, (uint64_t)status, 8);
    add_field(&reply, failure, strlen(failure));
    for (int number = 0; number < 2; number++)
        add_field(&reply, output[number].data ? output[number].data : "", output[number].size), free(output[number].data);
    return reply;
}

/* Execute foreign programs on the agent's word until `frame` is its answer; 0 if there will be none. */
static int serve_agent(int sock, Frame *frame) {
    for (;;) {
        int lock = -1; /* the attachment's, held while a program runs even if the agent dies meanwhile */
        if (!receive_frame(sock, frame, &lock, NEVER) || frame->count != FIELDS) return 0;
        if (frame->kind == ANSWER && frame->field[0].size == 4) return 1;
        if (frame->kind != EXECUTE) return 0;
        Buffer reply = execute(sock, frame);
        if (lock >= 0) close(lock);
        free(frame->body);
        if (!send_frame(sock, reply, -1, NEVER)) return 0;
    }
}

/* From here on a signal asks the agent to undo the work; its answer is still waited for. */
static void catch_signals(void) {
    sigset_t blocked;
    sigemptyset(&blocked);
    for (int at = 0; at < 3; at++) {
        struct sigaction action;
        sigaction(stops[at], NULL, &action);
        if (action.sa_handler == SIG_IGN) continue;
        action = (struct sigaction){.sa_handler = note};
        sigaddset(&blocked, stops[at]), sigaction(stops[at], &action, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, NULL);
}

/* The agent's answer in `frame` and 1, or 0 and in `lost` whether it may have begun the work. */
static int ask_agent(Buffer request, int sandbox, Frame *frame, int *lost) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {TAKEN_MS / 1000, TAKEN_MS % 1000 * 1000};
    int ignored = -1, sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, setting[SOCKET], sizeof address.sun_path - 1);
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* for a full queue of connections */
    if (connect(sock, (struct sockaddr *)&address, sizeof address)) return 0;
    if (!send_frame(sock, request, sandbox, now() + TAKEN_MS)) return 0;
    if (!receive_frame(sock, frame, &ignored, now() + TAKEN_MS) || frame->kind != TAKEN || frame->count) return 0;
    catch_signals();
    if (!send_frame(sock, begin_frame(GO), -1, NEVER)) return sigprocmask(SIG_SETMASK, &caller_mask, NULL), 0;
    *lost = 1;
    return serve_agent(sock, frame);
}

static const char *variable(char **environment, const char *name) {
    for (size_t length = strlen(name); *environment; environment++)
        if (!strncmp(*environment, name, length) && (*environment)[length] == '=') return *environment + length + 1;
    return "";
}

static int one_of(const char *verb, const char *const *verbs) {
    while (*verbs && strcmp(verb, *verbs)) verbs++;
    return *verbs != NULL;
}

/* All of standard input; 0, an errno or TOO_LARGE. */
static int read_stdin(Buffer *into) {
    while (into->size < STDIN_LIMIT) {
        ssize_t count = read(0, room_for(into, PIECE), PIECE);
        if (!count) return 0;
        if (count > 0) into->size += (size_t)count;
        else if (errno == EAGAIN) wait_one(0, POLLIN, NEVER);
        else if (errno != EINTR) return errno;
    }
    return TOO_LARGE;
}

static int open_sandbox(const char *path, int *failure) {
    struct stat status;
    int descriptor = -1;
    if (!*path) return -1;
    /* Anything may be named here, and to open a device can have effects. A namespace is a regular file. */
    if (!stat(path, &status))
        descriptor = open(path, O_CLOEXEC | (S_ISREG(status.st_mode) ? O_RDONLY | O_NONBLOCK : O_PATH));
    if (descriptor < 0) *failure = errno;
    return descriptor;
}

static void add_numbers(Buffer *request, int problem, int sandbox_errno) {
    static const char *const places[] = {"/proc/self/ns/net", "/proc/self/ns/mnt", "/"};
    mode_t mask = umask(0);
    umask(mask);
    add_number(request, 9 * 8, 4);
    add_number(request, mask, 8), add_number(request, (uint64_t)problem, 8), add_number(request, (uint64_t)sandbox_errno, 8);
    for (int at = 0; at < 3; at++) {
        struct stat status;
        if (stat(places[at], &status)) status.st_dev = 0, status.st_ino = 0;
        add_number(request, status.st_dev, 8), add_number(request, status.st_ino, 8);
    }
}

/* The one-shot process in place of this one. What was read of standard input is put back as a file. Signals
   that are blocked after GO stay so, pending ones too, until Python can note them. */
static void become_python(const Buffer *input, int was_read, int problem, int lost, char **environment) {
    char told[3][16], *arguments[] = {(char *)setting[PYTHON], "-ISXutf8", "-c", (char *)setting[TEXT], told[0], told[1], told[2], NULL};
    if (was_read && !problem) {
        int file = memfd_create("stdin", MFD_CLOEXEC);
        if (file < 0 || !write_all(file, input->data, input->size) || lseek(file, 0, SEEK_SET) || dup2(file, 0))
            problem = errno;
    }
    snprintf(told[0], sizeof told[0], "%d", problem);
    snprintf(told[1], sizeof told[1], "%d", lost);
    snprintf(told[2], sizeof told[2], "%d", (int)ended_by);
    execve(setting[PYTHON], arguments, environment);
    give_up(setting[ABSENT]);
}

/* A pipe that nobody reads ends the process by SIGPIPE, and an answer that cannot be written is a failure. */
static int deliver(const Frame *answer) {
    int status = (int)number(answer->field[0].data);
    write_all(2, answer->field[2].data, answer->field[2].size);
    signal(SIGPIPE, SIG_DFL);
    if (write_all(1, answer->field[1].data, answer->field[1].size)) return status;
    signal(SIGPIPE, SIG_IGN);
    dprintf(2, "Error writing to stdout: [Errno %d] %s\n", errno, strerror(errno));
    return status ? status : 1;
}

int main(int count, char **arguments, char **environment) {
    (void)count, (void)arguments;
    for (int descriptor = 0; descriptor < 3; descriptor++) /* gets the lowest free number, so no socket does */
        if (fcntl(descriptor, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) open("/", O_RDONLY);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* where it is ignored no exit status can be had */
    sigprocmask(SIG_BLOCK, NULL, &caller_mask);
    const char *at = settings;
    for (int number = 0; number < SETTINGS; at += strlen(at) + 1) setting[number++] = at;

    const char *verb = variable(environment, "CNI_COMMAND");
    Buffer input = {0}, block = {0}, request = begin_frame(REQUEST);
    Frame answer;
    int lost = 0, sandbox_errno = 0, sandbox = -1, reads = !one_of(verb, (const char *const[]){"", "VERSION", NULL});
    room_for(&input, 1);
    int problem = reads ? read_stdin(&input) : 0;
    if (problem) input.size = 0;
    if (one_of(verb, (const char *const[]){"ADD", "CHECK", "DEL", NULL}))
        sandbox = open_sandbox(variable(environment, "CNI_NETNS"), &sandbox_errno);
    for (char **each = environment; *each; each++) add(&block, *each, strlen(*each) + 1);
    char *directory = getcwd(NULL, 0);
    for (int each = RELEASE; each <= REF; each++) add_field(&request, setting[each], strlen(setting[each]));
    add_field(&request, block.data ? block.data : "", block.size);
    add_field(&request, input.data, input.size);
    add_field(&request, directory ? directory : "", directory ? strlen(directory) : 0);
    add_numbers(&request, problem, sandbox_errno);
    if (!ask_agent(request, sandbox, &answer, &lost)) become_python(&input, reads, problem, lost, environment);
    _exit(deliver(&answer));
}

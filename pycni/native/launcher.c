/* The native launcher: hand the call to the node's agent, or become the Python process that does the work.
   The same as pycni/launcher.py, in the frames of pycni/agent/protocol.py; what passes through is not parsed.
   Memory is left to the process's end. Sources: unix(7), posix_spawn(3), pidfd_open(2), signal(7). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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

enum { PROTOCOL = 1, REQUEST = 1, TAKEN = 2, GO = 4, EXECUTE = 5, EXECUTED = 6, ANSWER = 7, CANCEL = 8 };
enum { STDIN_LIMIT = 16 << 20, OUTPUT_LIMIT = 16 << 20, FRAME_LIMIT = 40 << 20, PIECE = 1 << 16 };
enum { TAKEN_SECONDS = 1, PIPE_SECONDS = 1, KILL_SECONDS = 5, BUSY_SECONDS = 1, BUSY_ATTEMPTS = 6 };
enum { HEAD = 8, FIELDS = 3, TOO_LARGE = 0xFFFF, TURN_MS = 50 };
/* `pycni install` writes these strings, a NUL after each, over the placeholder in a copy of the program. */
enum { RELEASE, PLUGIN, REF, SOCKET, PYTHON, TEXT, ABSENT, SETTINGS };
char settings[16384] = "pycni-launcher-settings";
static char *setting[SETTINGS];
typedef struct { char *data; size_t size, room; } Buffer;
typedef union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } Rights;
static int agent, begun; /* the connection; whether GO was sent, so that the agent may have begun the work */
static sigset_t stops;   /* the signals that ask this process to stop; and the first of them that came */
static volatile sig_atomic_t ended_by;

/* Whether to repeat a call that failed. Standard streams may be non-blocking; until GO time is limited. */
static int again(int descriptor, short events) {
    if (errno != EAGAIN || !(begun || descriptor < 3)) return errno == EINTR;
    return poll(&(struct pollfd){descriptor, events, 0}, 1, -1) != 0;
}
static int write_all(int descriptor, const char *data, size_t size) {
    while (size) {
        ssize_t count = write(descriptor, data, size);
        if (count >= 0) data += count, size -= (size_t)count;
        else if (!again(descriptor, POLLOUT)) return 0;
    }
    return 1;
}
static void fail(const char *error_object) {
    write_all(1, error_object, strlen(error_object));
    _exit(1);
}
static char *room_for(Buffer *buffer, size_t more) {
    if (buffer->room - buffer->size < more) {
        buffer->room = 2 * buffer->room + more;
        buffer->data = realloc(buffer->data, buffer->room);
        if (!buffer->data) fail("{\n    \"code\": 999,\n    \"msg\": \"pycni launcher: out of memory\"\n}");
    }
    return buffer->data + buffer->size;
}
static void add(Buffer *buffer, const void *data, size_t size) {
    char *room = room_for(buffer, size + 1);
    if (size) memcpy(room, data, size);
    buffer->size += size;
}
static void add_number(Buffer *buffer, uint64_t value, int bytes) {
    for (; bytes--; value >>= 8) add(buffer, &(char){(char)value}, 1);
}
static void add_field(Buffer *buffer, const void *data, size_t size) {
    add_number(buffer, size, 4);
    add(buffer, data, size);
}
static uint32_t number(const char *data) {
    const unsigned char *byte = (const unsigned char *)data;
    return byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24;
}
static Buffer begin_frame(int kind) {
    Buffer frame = {0};
    add_number(&frame, (uint64_t)(PROTOCOL | kind << 8), HEAD);
    return frame;
}
static int send_frame(Buffer frame, int descriptor) {
    Rights rights = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    memcpy(CMSG_DATA(&rights.header), &descriptor, sizeof(int));
    for (int at = 4; at < HEAD; at++) frame.data[at] = (char)((frame.size - HEAD) >> 8 * (at - 4));
    size_t sent = 0;
    sigset_t before;
    sigprocmask(SIG_BLOCK, &stops, &before); /* no CANCEL into the middle of a frame */
    while (sent < frame.size) {
        struct iovec rest = {frame.data + sent, frame.size - sent};
        struct msghdr message = {.msg_iov = &rest, .msg_iovlen = 1};
        if (descriptor >= 0 && !sent) message.msg_control = &rights, message.msg_controllen = sizeof rights;
        ssize_t count = sendmsg(agent, &message, MSG_NOSIGNAL);
        if (count > 0) sent += (size_t)count;
        else if (!again(agent, POLLOUT)) break;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return sent == frame.size;
}
static int receive(char *data, size_t size, int *descriptor) {
    while (size) {
        Rights rights; /* for one descriptor: the kernel drops any other */
        struct msghdr message = {.msg_iov = &(struct iovec){data, size}, .msg_iovlen = 1};
        message.msg_control = &rights, message.msg_controllen = CMSG_LEN(sizeof(int));
        ssize_t count = recvmsg(agent, &message, 0); /* inherited by the program to execute */
        if (count < 0 && again(agent, POLLIN)) continue;
        if (count <= 0) return 0;
        if (message.msg_controllen && *descriptor < 0) memcpy(descriptor, CMSG_DATA(&rights.header), sizeof(int));
        data += count, size -= (size_t)count;
    }
    return 1;
}

/* The kind of the next frame, and its fields, which are strings too. 0: the end, too late, or out of place. */
static int receive_frame(Buffer field[FIELDS], int *descriptor) {
    char head[HEAD];
    if (!receive(head, HEAD, descriptor)) return 0;
    size_t size = number(head + 4), at = 0, count = 0;
    if (head[0] != PROTOCOL || head[2] || head[3] || size > FRAME_LIMIT) return 0;
    char *body = room_for(&(Buffer){0}, size + 1);
    if (!receive(body, size, descriptor)) return 0;
    for (body[size] = 0; at < size; at += field[count++].size) {
        if (count == FIELDS || size - at < 4 || number(body + at) > size - at - 4) return 0;
        field[count] = (Buffer){body + at + 4, number(body + at), 0};
        body[at] = 0; /* the end of the field before */
        at += 4;
    }
    return count == (head[1] == TAKEN ? 0 : FIELDS) ? head[1] : 0;
}

/* After GO a signal asks the agent to undo the work; its answer is still waited for. */
static void pass_on(int number) {
    int kept = errno;
    char frame[HEAD + 8] = {PROTOCOL, CANCEL, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, (char)number};
    if (!ended_by) ended_by = number, send(agent, frame, sizeof frame, MSG_NOSIGNAL);
    errno = kept;
}

/* All of standard input; 0, an errno or TOO_LARGE. */
static int read_stdin(Buffer *into) {
    while (into->size < STDIN_LIMIT) {
        ssize_t count = read(0, room_for(into, PIECE), PIECE);
        if (count > 0) into->size += (size_t)count;
        else if (count == 0 || !again(0, POLLIN)) return count ? errno : 0;
    }
    return TOO_LARGE;
}

/* A file that can be somebody's standard input; -1 and errno if there cannot be one. */
static int input_file(const Buffer *data) {
    int file = memfd_create("stdin", MFD_CLOEXEC);
    return file >= 0 && write_all(file, data->data, data->size) && !lseek(file, 0, SEEK_SET) ? file : -1;
}

/* Start the program that the agent names, with these standard streams; 0 or an errno. */
static int spawn(pid_t *pid, const Buffer order[FIELDS], const int streams[3]) {
    Buffer variables = {0};
    for (char *at = order[1].data; at < order[1].data + order[1].size; at += strlen(at) + 1)
        add(&variables, &at, sizeof at);
    add(&variables, &(char *){NULL}, sizeof(char *));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (int at = 0; at < 3; at++) posix_spawn_file_actions_adddup2(&actions, streams[at], at);
    int failed, attempt = 0;
    char *path = order[0].data, **environment = (char **)variables.data;
    do failed = posix_spawn(pid, path, &actions, NULL, (char *[]){path, NULL}, environment);
    while (failed == ETXTBSY && ++attempt < BUSY_ATTEMPTS && !sleep(BUSY_SECONDS)); /* still written */
    return failed;
}

/* Read both outputs until the program has ended; its exit status, or minus its signal. A signal that arrives
   meanwhile ends it, one that came before does not: then the program is part of the clean-up. */
static int attend(pid_t pid, struct pollfd polls[3], Buffer output[2], int cleaning) {
    static char piece[PIECE];
    time_t ended = 0, stopped = 0;
    struct timespec now;
    int status;
    while (!ended || polls[0].fd >= 0 || polls[1].fd >= 0) {
        if (poll(polls, 3, TURN_MS) < 0) continue;
        for (int at = 0; at < 2; at++) {
            if (!polls[at].revents) continue;
            ssize_t count = read(polls[at].fd, piece, PIECE);
            if (count <= 0) polls[at].fd = -1;
            else if (output[at].size < OUTPUT_LIMIT) add(&output[at], piece, (size_t)count);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (polls[2].revents) ended = now.tv_sec, polls[2].fd = -1;
        if (ended && now.tv_sec - ended > PIPE_SECONDS) break; /* descendants hold its outputs open */
        if (ended || cleaning || !ended_by) continue;
        if (!stopped) stopped = now.tv_sec, kill(pid, SIGTERM);
        if (now.tv_sec - stopped > KILL_SECONDS) kill(pid, SIGKILL);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Run the program that the agent names, and answer with what became of it. */
static int execute(const Buffer order[FIELDS], int lock) {
    Buffer output[2] = {{0}}, reply = begin_frame(EXECUTED);
    int64_t status = -1;
    pid_t pid;
    int out[2] = {-1, -1}, err[2] = {-1, -1}, pidfd = -1, file = input_file(&order[2]), cleaning = ended_by != 0;
    int failed = file < 0 || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) ? errno : 0;
    if (!failed) failed = spawn(&pid, order, (int[]){file, out[1], err[1]});
    close(file), close(out[1]), close(err[1]);
    if (!failed && (pidfd = (int)syscall(SYS_pidfd_open, pid, 0)) < 0) failed = errno, kill(pid, SIGKILL);
    struct pollfd polls[] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}, {pidfd, POLLIN, 0}};
    if (!failed) status = attend(pid, polls, output, cleaning);
    close(out[0]), close(err[0]), close(pidfd), close(lock);
    const char *words = failed ? strerror(failed) : "";
    add_number(&reply, 8, 4), add_number(&reply, (uint64_t)status, 8);
    add_field(&reply, words, strlen(words));
    if (failed) reply.data[reply.size - strlen(words)] |= 'a' - 'A'; /* within a sentence of the agent's */
    for (int at = 0; at < 2; at++) add_field(&reply, output[at].data, output[at].size);
    return send_frame(reply, -1);
}

/* The agent's answer in `field` and 1, or 0. Meanwhile foreign programs are executed on its word. */
static int ask_agent(Buffer request, int sandbox, Buffer field[FIELDS]) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int kind = 0, lock = -1;
    strncpy(address.sun_path, setting[SOCKET], sizeof address.sun_path - 1);
    agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){TAKEN_SECONDS, 0}, sizeof(struct timeval));
    setsockopt(agent, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){TAKEN_SECONDS, 0}, sizeof(struct timeval));
    if (connect(agent, (struct sockaddr *)&address, sizeof address) || !send_frame(request, sandbox)) return 0;
    if (receive_frame(field, &lock) != TAKEN) return 0;
    for (int number = 1; number <= SIGTERM; number++)
        if (sigismember(&stops, number) && signal(number, pass_on) == SIG_IGN) signal(number, SIG_IGN);
    begun = send_frame(begin_frame(GO), -1);
    /* `lock` is the attachment's; the program inherits it, so the next call waits for its end in any case. */
    while (begun && (kind = receive_frame(field, &lock)) == EXECUTE && execute(field, lock)) lock = -1;
    close(lock);
    return kind == ANSWER && field[0].size == 4;
}

/* Anything may be named here, and to open a device can have effects. A namespace is a regular file. */
static int open_sandbox(const char *path, int *failed) {
    struct stat status;
    int access = !stat(path, &status) && S_ISREG(status.st_mode) ? O_RDONLY | O_NONBLOCK : O_PATH;
    int descriptor = open(path, access | O_CLOEXEC);
    *failed = descriptor < 0 ? errno : 0;
    return descriptor;
}

/* What only this process knows: umask, what became of standard input and of CNI_NETNS, and where it is. */
static void add_numbers(Buffer *request, int problem, int sandbox_errno) {
    const char *const places[] = {"/proc/self/ns/net", "/proc/self/ns/mnt", "/"};
    uint64_t values[9] = {umask(0), (uint64_t)problem, (uint64_t)sandbox_errno};
    umask((mode_t)values[0]);
    for (int at = 0; at < 3; at++) {
        struct stat status;
        if (!stat(places[at], &status)) values[3 + 2 * at] = status.st_dev, values[4 + 2 * at] = status.st_ino;
    }
    add_number(request, sizeof values, 4);
    for (int at = 0; at < 9; at++) add_number(request, values[at], 8);
}

/* What was read of standard input is put back as a file. After GO signals wait until Python can note them. */
static void become_python(const Buffer *input, int problem) {
    char told[3][16], *python = setting[PYTHON], *text = setting[TEXT];
    if (begun) sigprocmask(SIG_BLOCK, &stops, NULL);
    int file = input->room ? input_file(input) : 0;
    if (file < 0 || (file && dup2(file, 0))) problem = errno;
    for (int at = 0; at < 3; at++) snprintf(told[at], 16, "%d", (int[]){problem, begun, ended_by}[at]);
    execv(python, (char *[]){python, "-ISXutf8", "-c", text, told[0], told[1], told[2], NULL});
    fail(setting[ABSENT]);
}

/* A pipe that nobody reads ends the process by SIGPIPE, and an answer that cannot be written is a failure. */
static int deliver(const Buffer answer[FIELDS]) {
    int status = (int)number(answer[0].data);
    signal(SIGPIPE, SIG_IGN), write_all(2, answer[2].data, answer[2].size), signal(SIGPIPE, SIG_DFL);
    if (write_all(1, answer[1].data, answer[1].size)) return status;
    signal(SIGPIPE, SIG_IGN), dprintf(2, "Error writing to stdout: [Errno %d] %s\n", errno, strerror(errno));
    return status ? status : 1;
}

int main(void) {
    for (int number = 0; number < 3; number++) /* gets the lowest free number, so no socket of ours does */
        if (fcntl(number, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) open("/", O_RDONLY);
    signal(SIGPIPE, SIG_DFL), signal(SIGCHLD, SIG_DFL); /* where children are ignored they leave no status */
    sigemptyset(&stops), sigaddset(&stops, SIGTERM), sigaddset(&stops, SIGINT), sigaddset(&stops, SIGHUP);
    for (char *at = settings, **each = setting; each < setting + SETTINGS; at += strlen(at) + 1) *each++ = at;
    const char *verb = getenv("CNI_COMMAND"), *path = getenv("CNI_NETNS");
    int attached = verb && *verb && strcmp(verb, "VERSION"), problem = 0, sandbox = -1, sandbox_errno = 0;
    Buffer request = begin_frame(REQUEST), variables = {0}, input = {0}, answer[FIELDS];
    if (attached && (problem = read_stdin(&input))) input.size = 0;
    if (attached && path && *path && strstr("ADD CHECK DEL", verb)) sandbox = open_sandbox(path, &sandbox_errno);
    for (int each = RELEASE; each <= REF; each++) add_field(&request, setting[each], strlen(setting[each]));
    for (char **each = environ; *each; each++) add(&variables, *each, strlen(*each) + 1);
    add_field(&request, variables.data, variables.size), add_field(&request, input.data, input.size);
    char *directory = getcwd(NULL, 0);
    add_field(&request, directory, directory ? strlen(directory) : 0);
    add_numbers(&request, problem, sandbox_errno);
    if (!ask_agent(request, sandbox, answer)) become_python(&input, problem);
    _exit(deliver(answer));
}

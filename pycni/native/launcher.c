/* The native launcher: hand the call to the node's agent, or become the Python process that does the work.

   The same as pycni/launcher.py, in the frames of pycni/agent/protocol.py; what passes through is not parsed.
   Most memory is left to the process's end. Sources: unix(7), posix_spawn(3), pidfd_open(2), signal(7). */

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
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROTOCOL = 1, REQUEST = 1, TAKEN = 2, GO = 4, EXECUTE = 5, EXECUTED = 6, ANSWER = 7, CANCEL = 8 };
enum { STDIN_LIMIT = 16 << 20, OUTPUT_LIMIT = 16 << 20, FRAME_LIMIT = 40 << 20, TOO_LARGE = 0xFFFF };
enum { TAKEN_SECONDS = 1, PIPE_MS = 1000, KILL_MS = 5000, TURN_MS = 50, BUSY_ATTEMPTS = 6 };
enum { HEAD = 8, PIECE = 1 << 16, FIELDS = 3 };

/* `pycni install` writes these strings, a NUL after each, over the placeholder in a copy of the executable. */
enum { RELEASE, PLUGIN, REF, SOCKET, PYTHON, TEXT, ABSENT, SETTINGS };
char settings[16384] = "pycni-launcher-settings";
static char *setting[SETTINGS];

typedef struct { char *data; size_t size, room; } Buffer;
typedef struct { int kind, count; Buffer body, field[FIELDS]; } Frame;
typedef union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } Rights;

static int agent = -1;
static sigset_t stops;
static volatile sig_atomic_t ended_by; /* the first signal that asked this process to stop */

static void fail(const char *error_object) {
    if (write(1, error_object, strlen(error_object)) < 0) _exit(2);
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
    sigset_t before;
    sigprocmask(SIG_BLOCK, &stops, &before); /* no CANCEL into the middle of a frame */
    size_t sent = 0;
    while (sent < frame.size) {
        struct msghdr message = {.msg_iov = &(struct iovec){frame.data + sent, frame.size - sent}, .msg_iovlen = 1};
        if (descriptor >= 0 && !sent) message.msg_control = &rights, message.msg_controllen = sizeof rights;
        ssize_t count = sendmsg(agent, &message, MSG_NOSIGNAL);
        if (count < 0 && errno != EINTR) break;
        if (count > 0) sent += (size_t)count;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return sent == frame.size;
}

static int receive(char *data, size_t size, int *descriptor) {
    while (size) {
        Rights rights; /* for one descriptor: the kernel drops any other */
        struct msghdr message = {.msg_iov = &(struct iovec){data, size}, .msg_iovlen = 1};
        message.msg_control = &rights, message.msg_controllen = CMSG_LEN(sizeof(int));
        ssize_t count = recvmsg(agent, &message, MSG_CMSG_CLOEXEC);
        if (count == 0 || (count < 0 && errno != EINTR)) return 0;
        if (count < 0) continue;
        if (message.msg_controllen && *descriptor < 0) memcpy(descriptor, CMSG_DATA(&rights.header), sizeof(int));
        data += count, size -= (size_t)count;
    }
    return 1;
}

/* 0 if the connection ends, time is up, or what comes is no frame. Each field is a string too. */
static int receive_frame(Frame *frame, int *descriptor) {
    char head[HEAD];
    if (!receive(head, HEAD, descriptor)) return 0;
    size_t size = number(head + 4), at = 0;
    if (head[0] != PROTOCOL || head[2] || head[3] || size > FRAME_LIMIT) return 0;
    *frame = (Frame){.kind = head[1]};
    char *body = room_for(&frame->body, size + 1);
    if (!receive(body, size, descriptor)) return 0;
    for (body[size] = 0; at < size; frame->count++) {
        if (frame->count == FIELDS || size - at < 4 || number(body + at) > size - at - 4) return 0;
        frame->field[frame->count] = (Buffer){body + at + 4, number(body + at), 0};
        body[at] = 0; /* the end of the field before */
        at += 4 + frame->field[frame->count].size;
    }
    return 1;
}

/* After GO a signal asks the agent to undo the work; its answer is still waited for. */
static void pass_on(int number) {
    int kept = errno;
    if (!ended_by) ended_by = number, send(agent, (char[HEAD]){PROTOCOL, CANCEL}, HEAD, MSG_NOSIGNAL | MSG_DONTWAIT);
    errno = kept;
}

/* For a standard stream that somebody made non-blocking. */
static int again(int descriptor, short events) {
    return errno == EINTR || (errno == EAGAIN && poll(&(struct pollfd){descriptor, events, 0}, 1, -1) != 0);
}

static int write_all(int descriptor, const char *data, size_t size) {
    while (size) {
        ssize_t count = write(descriptor, data, size);
        if (count >= 0) data += count, size -= (size_t)count;
        else if (!again(descriptor, POLLOUT)) return 0;
    }
    return 1;
}

/* All of standard input; 0, an errno or TOO_LARGE. */
static int read_stdin(Buffer *into) {
    while (into->size < STDIN_LIMIT) {
        ssize_t count = read(0, room_for(into, PIECE), PIECE);
        if (count == 0) return 0;
        if (count > 0) into->size += (size_t)count;
        else if (!again(0, POLLIN)) return into->size = 0, errno;
    }
    return into->size = 0, TOO_LARGE;
}

/* A file of these bytes that can be somebody's standard input; 0 or an errno. */
static int input_file(const Buffer *data, int *file) {
    *file = memfd_create("stdin", MFD_CLOEXEC);
    return *file >= 0 && write_all(*file, data->data, data->size) && !lseek(*file, 0, SEEK_SET) ? 0 : errno;
}

/* Start the program with these streams and no signal of ours ignored; 0 or an errno. */
static int spawn(pid_t *pid, Frame *order, const int streams[3]) {
    Buffer variables = {0}, *block = &order->field[1];
    for (size_t at = 0; at < block->size; at += strlen(block->data + at) + 1)
        add(&variables, &(char *){block->data + at}, sizeof(char *));
    add(&variables, &(char *){NULL}, sizeof(char *));
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    posix_spawn_file_actions_init(&actions), posix_spawnattr_init(&attributes);
    for (int at = 0; at < 3; at++) posix_spawn_file_actions_adddup2(&actions, streams[at], at);
    sigemptyset(&defaults), sigaddset(&defaults, SIGPIPE), sigaddset(&defaults, SIGXFSZ);
    posix_spawnattr_setsigdefault(&attributes, &defaults), posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    for (int attempt = 1;; attempt++, sleep(1)) { /* a file that is being written cannot be executed */
        char *arguments[] = {order->field[0].data, NULL};
        int failed = posix_spawn(pid, arguments[0], &actions, &attributes, arguments, (char **)variables.data);
        if (failed != ETXTBSY || attempt == BUSY_ATTEMPTS) return failed;
    }
}

static int64_t now(void) {
    struct timeval time;
    gettimeofday(&time, NULL);
    return time.tv_sec * (int64_t)1000 + time.tv_usec / 1000;
}

/* Read both outputs until the program has ended; its exit status, or minus its signal. A signal that arrives
   meanwhile ends it, one that came before does not: then the program is part of the clean-up. */
static int attend(pid_t pid, struct pollfd polls[3], Buffer output[2]) {
    static char piece[PIECE];
    int64_t ended = 0, stopped = 0;
    int status, killed = ended_by != 0;
    /* Descendants may hold the outputs open for some time after the program's end. */
    while (!ended || ((polls[0].fd >= 0 || polls[1].fd >= 0) && now() - ended <= PIPE_MS)) {
        if (poll(polls, 3, TURN_MS) < 0) continue;
        for (int at = 0; at < 2; at++) {
            ssize_t count = polls[at].revents ? read(polls[at].fd, piece, PIECE) : 1;
            if (count <= 0) polls[at].fd = -1;
            else if (polls[at].revents && output[at].size < OUTPUT_LIMIT) add(&output[at], piece, (size_t)count);
        }
        if (polls[2].revents) ended = now(), polls[2].fd = -1;
        if (ended || killed || !ended_by) continue;
        if (!stopped) stopped = now(), kill(pid, SIGTERM);
        if (now() - stopped > KILL_MS) killed = 1, kill(pid, SIGKILL);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

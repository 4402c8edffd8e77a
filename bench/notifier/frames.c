// The subset of WebSocket frames (RFC 6455, section 5.2) that this benchmark needs: no server fragments or masks them.
#include <string.h>

#include "load.h"

size_t encode_frame(unsigned char *frame, enum opcode opcode, const char *data, size_t size)
{
    static const unsigned char MASK[4] = {1, 2, 3, 4};
    size_t n = 0;
    if (size > MAX_SENT_BYTES - 8)
        return 0;
    frame[n++] = 0x80 | (unsigned char)opcode;
    if (size < 126) {
        frame[n++] = 0x80 | (unsigned char)size;
    } else {
        frame[n++] = 0x80 | 126;
        frame[n++] = (unsigned char)(size >> 8);
        frame[n++] = (unsigned char)size;
    }
    memcpy(frame + n, MASK, sizeof MASK);
    n += sizeof MASK;
    for (size_t i = 0; i < size; i++)
        frame[n++] = (unsigned char)data[i] ^ MASK[i & 3];
    return n;
}

size_t decode_frame(const unsigned char *data, size_t size, struct frame *frame)
{
    size_t head = 2;
    if (size < head)
        return 0;
    frame->opcode = data[0] & 15;
    frame->size = data[1] & 127;
    if (frame->size == 126)
        head = 4;
    else if (frame->size == 127)
        head = 10;
    if (size < head)
        return 0;
    if (head > 2)
        frame->size = 0;
    for (size_t i = 2; i < head; i++)
        frame->size = frame->size << 8 | data[i];
    frame->payload = (const char *)data + head;
    return size < head + frame->size ? 0 : head + frame->size;
}

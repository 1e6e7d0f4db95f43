/* Makes a server believe that its NOTIFY queue is full. Up to version 16, filling it would take 8 GB of disk. */
#include "postgres.h"

#include "fmgr.h"
#include "storage/shmem.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(fill_notify_queue);

/* The first fields of async.c's shared memory. */
typedef struct
{
    int head_page;
    int head_offset;
    int tail_page;
    int tail_offset;
    int stop_page;
} Queue;

/* Arguments: the size of that memory, and whether the queue shall be full. */
Datum fill_notify_queue(PG_FUNCTION_ARGS)
{
    bool found;
    Queue *queue = ShmemInitStruct("Async Queue Control", PG_GETARG_INT64(0), &found);

    if (!found)
        elog(ERROR, "there is no NOTIFY queue");
    /* As if a listener had not read a page this far behind in the ring. */
    queue->stop_page = PG_GETARG_BOOL(1) ? queue->head_page + 64 : queue->tail_page;
    PG_RETURN_VOID();
}

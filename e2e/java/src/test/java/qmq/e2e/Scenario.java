package qmq.e2e;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;

/**
 * One thing an application does, on subjects of its own. All of these run at the same time in one JVM against servers
 * that nobody kills, with the settings of the scenario test in e2e/tests/it/java.rs.
 */
@Target(ElementType.TYPE)
@Retention(RetentionPolicy.RUNTIME)
@Tag("scenario")
@Execution(ExecutionMode.CONCURRENT)
@interface Scenario {
}
